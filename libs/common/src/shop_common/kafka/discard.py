"""Throwing away an aiokafka client that may not answer, in bounded time and without a task or socket left behind.

aiokafka only offers `stop()`, which waits for a flush or for the group for as long as that takes. The private names
below are those of aiokafka 0.14; each is reached for because nothing public ends the tasks behind it.
"""

import asyncio
import logging
from itertools import chain
from typing import Any, Final

from aiokafka.errors import KafkaConnectionError

log = logging.getLogger(__name__)

LEAVE_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 0.5


async def discard_producer(producer: Any) -> None:
    """Close, and fail what is not acked: whoever awaits an ack hears a connection error now, not at a deadline."""
    producer._closed = True  # noqa: SLF001 - or its destructor complains
    _fail_metadata(producer.client)
    await _end(producer.client, [producer._sender.sender_task])  # noqa: SLF001 - see above
    accumulator = producer._message_accumulator  # noqa: SLF001 - see above
    batches = {*accumulator._pending_batches, *chain.from_iterable(accumulator._batches.values())}  # noqa: SLF001 - see above
    accumulator.fail_all(KafkaConnectionError("the producer is thrown away"))
    for batch in batches:
        if batch._drain_waiter.done():  # noqa: SLF001 - see above
            batch._drain_waiter.exception()  # noqa: SLF001 - nobody else looks at it, and asyncio complains


async def discard_consumer(consumer: Any, wait_seconds: float = LEAVE_SECONDS) -> None:
    """Leave the group if it answers within that time, and close in any case."""
    # In a task: while the broker is away `stop()` ends with the cancellation of a fetch, which must not pass for ours.
    stopping = asyncio.create_task(consumer.stop())
    try:
        await asyncio.wait([stopping], timeout=wait_seconds)
    finally:
        if not stopping.done() or stopping.cancelled() or stopping.exception():
            log.warning("Kafka consumer did not leave its group")
            coordinator, fetcher = consumer._coordinator, consumer._fetcher  # noqa: SLF001 - see above
            names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_fetch_task")
            tasks = [getattr(owner, name, None) for owner in (coordinator, fetcher) for name in names]
            await _end(consumer._client, [stopping, *tasks, *getattr(fetcher, "_pending_tasks", ())])  # noqa: SLF001 - see above


def _fail_metadata(client: Any) -> None:
    """Who waits to hear of a topic's partitions waits for a task that is ended here; they hear of that instead."""
    loop = asyncio.get_running_loop()

    def refuse() -> asyncio.Future[Any]:
        refused = loop.create_future()
        refused.set_exception(KafkaConnectionError("the producer is thrown away"))
        refused.exception()  # perhaps nobody else looks at it, and asyncio complains
        return refused

    waiting, client._md_update_fut = client._md_update_fut, loop.create_future()  # noqa: SLF001 - see above
    client.force_metadata_update = refuse  # what everybody asks who finds the topic still unknown
    if waiting is not None and not waiting.done():
        waiting.set_result(False)


async def _end(client: Any, tasks: list[asyncio.Task[Any] | None]) -> None:
    running = [task for task in tasks if task is not None]
    closing = asyncio.create_task(client.close())
    for _ in range(2):  # the first time, aiokafka's tasks may go on to wait for what will not come
        for task in running:
            task.cancel()
        await asyncio.wait([closing, *running], timeout=_CLOSE_SECONDS)
    closing.cancel()
