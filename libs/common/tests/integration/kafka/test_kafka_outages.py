"""Brokers that are late, die, freeze and come back: nothing acknowledged is lost, and nothing stays wedged."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shop_common.events.envelope import MAX_DATA_BYTES, Event
from shop_common.events.users import UserUpdated
from shop_common.kafka.producer import EventProducer, EventTooLarge, SendFailed, open_producer

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]


@pytest.fixture
async def sending(broker: Any, kafka: Any) -> AsyncIterator[EventProducer]:
    kafka.bootstrap = broker.bootstrap
    settings = kafka.settings(request_timeout_ms=2000, send_timeout_seconds=2)
    async with open_producer(settings) as producer:
        yield producer


async def send_until_acked(producer: EventProducer, event: Event, topic: str) -> int:
    """Returns how many sends failed before."""
    failures = 0
    async with asyncio.timeout(60):
        while True:
            try:
                await producer.send(event, topic)
            except SendFailed:
                failures += 1
            else:
                return failures


async def test_a_broker_that_starts_late_dies_and_freezes(
    broker: Any, kafka: Any, sending: EventProducer, wait_until: Until, user_event: Create
) -> None:
    with pytest.raises(SendFailed, match=r"^no ack for .* in 2.0 s$"):
        await sending.send(user_event().to_event(), "early")
    with pytest.raises(SendFailed):
        await sending.ready()

    await broker.start()
    topic = await kafka.topic(partitions=1)
    await wait_until(sending.ready)
    seen: list[str] = []
    acked: list[str] = []

    async def send(note: str) -> int:
        failures = await send_until_acked(sending, user_event(note=note).to_event(), topic)
        acked.append(note)
        return failures

    async with kafka.consuming(topic, kafka.noting(seen), request_timeout_ms=2000):
        await send("before")
        await wait_until(lambda: "before" in seen)

        broker.signal(signal.SIGKILL)
        assert await send("killed") > 0
        await wait_until(lambda: "killed" in seen)

        broker.signal(signal.SIGSTOP)
        with pytest.raises(SendFailed):
            await sending.send(user_event(note="unknown").to_event(), topic)
        with pytest.raises((SendFailed, TimeoutError)):
            await sending.ready()
        broker.signal(signal.SIGCONT)
        await send("thawed")
        await wait_until(lambda: "thawed" in seen)

        await asyncio.gather(*(send(f"after{number}") for number in range(50)))
        await wait_until(lambda: set(acked) <= set(seen))
    assert set(seen) - {"unknown"} == set(acked)


async def test_sends_wait_for_the_same_new_producer(
    broker: Any, kafka: Any, sending: EventProducer, wait_until: Until, user_event: Create
) -> None:
    """Many sends that fail at once throw the producer away once, and all go through the next."""
    await broker.start()
    topic = await kafka.topic(partitions=1)
    await wait_until(sending.ready)
    await sending.send(user_event().to_event(), topic)
    first = sending._producer

    broker.signal(signal.SIGSTOP)
    failures = await asyncio.gather(
        *(sending.send(user_event().to_event(), topic) for _ in range(20)), return_exceptions=True
    )
    assert {type(failure) for failure in failures} == {SendFailed}
    assert sending._producer is None
    broker.signal(signal.SIGCONT)
    await wait_until(sending.ready)

    assert sending._producer is not first
    await wait_until(lambda: not sending._discarding)
    await sending.send(user_event().to_event(), topic)


async def test_closing_does_not_wait_for_a_broker_that_is_gone(
    broker: Any, kafka: Any, wait_until: Until, user_event: Create
) -> None:
    await broker.start()
    kafka.bootstrap = broker.bootstrap
    topic = await kafka.topic(partitions=1)
    async with asyncio.timeout(30), open_producer(kafka.settings()) as producer:
        await producer.send(user_event().to_event(), topic)
        broker.signal(signal.SIGSTOP)
        waiting = asyncio.create_task(producer.send(user_event().to_event(), topic))
        await wait_until(
            lambda: producer._producer._message_accumulator._batches or producer._producer._sender._in_flight
        )
    with pytest.raises(SendFailed):
        await waiting
    with pytest.raises(SendFailed, match="closed"):
        await producer.send(user_event().to_event(), topic)
    broker.signal(signal.SIGCONT)


async def test_who_sends_late_hears_at_once_that_the_producer_is_gone(
    broker: Any, kafka: Any, sending: EventProducer, wait_until: Until, user_event: Create
) -> None:
    await broker.start()
    topic = await kafka.topic(partitions=1)
    await send_until_acked(sending, user_event().to_event(), topic)
    broker.signal(signal.SIGSTOP)
    early = asyncio.create_task(sending.send(user_event().to_event(), topic))
    await wait_until(lambda: sending._producer._sender._in_flight)
    await asyncio.wait([early], timeout=1)
    late = asyncio.create_task(sending.send(user_event().to_event(), topic))

    with pytest.raises(SendFailed, match="no ack"):
        await early
    with pytest.raises(SendFailed, match="KafkaConnectionError"):
        await late
    broker.signal(signal.SIGCONT)


async def test_leaving_does_not_wait_for_a_broker_that_is_gone(
    broker: Any, kafka: Any, wait_until: Until, user_event: Create
) -> None:
    await broker.start()
    kafka.bootstrap = broker.bootstrap
    topic, seen = await kafka.topic(partitions=1), list[str]()

    await kafka.put(topic, user_event())
    async with asyncio.timeout(40), kafka.consuming(topic, kafka.noting(seen)):
        await wait_until(lambda: len(seen) == 1)
        broker.signal(signal.SIGSTOP)
    broker.signal(signal.SIGCONT)
    left = [str(task.get_coro()) for task in asyncio.all_tasks()]
    assert not [name for name in left if any(part in name for part in ("Sender", "Coordinator", "Fetcher", "AIOKafka"))]


async def test_a_consumer_stops_in_order_while_its_broker_is_down(
    broker: Any, kafka: Any, wait_until: Until, user_event: Create
) -> None:
    """aiokafka's `stop()` then ends with a cancellation that nobody asked for."""
    await broker.start()
    kafka.bootstrap = broker.bootstrap
    topic, seen = await kafka.topic(partitions=1), list[str]()

    await kafka.put(topic, user_event())
    async with asyncio.timeout(60), kafka.consuming(topic, kafka.noting(seen)) as consumer:
        [box] = consumer._membership._boxes.values()
        await wait_until(lambda: len(seen) == 1 and box.tracker.to_commit() is None)
        await asyncio.to_thread(broker.stop)
        fetches = consumer._membership._consumer._fetcher._pending_tasks
        # Between two tries of a fetch, which is where the cancellation comes from.
        await wait_until(lambda: any(task.get_coro().cr_await.__name__ == "sleep" for task in fetches))


async def test_a_broker_that_does_not_answer_is_no_stuck_consumer(
    broker: Any, kafka: Any, wait_until: Until, user_event: Create
) -> None:
    """However often the watchdog replaces the connection meanwhile, the process goes on and so does the consuming."""
    await broker.start()
    kafka.bootstrap = broker.bootstrap
    topic, seen = await kafka.topic(partitions=1), list[str]()

    await kafka.put(topic, user_event(note="before"))
    changes = {"stuck_seconds": 0.5, "request_timeout_ms": 1000}
    async with kafka.consuming(topic, kafka.noting(seen), **changes) as consumer:
        await wait_until(lambda: seen == ["before"])
        first = consumer._membership
        broker.signal(signal.SIGSTOP)
        await wait_until(lambda: consumer._membership is not first)
        broker.signal(signal.SIGCONT)
        await wait_until(consumer.ready)
        await kafka.put(topic, user_event(note="after"))
        await wait_until(lambda: "after" in seen)


async def test_whoever_waits_for_a_topic_hears_at_once_that_the_producer_is_thrown_away(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    small = await kafka.topic(partitions=1, **{"max.message.bytes": "100"})
    async with open_producer(kafka.settings(send_timeout_seconds=100, request_timeout_ms=60_000)) as producer:
        waiting = asyncio.create_task(producer.send(user_event().to_event(), "never-made"))
        await wait_until(lambda: producer._producer is not None and "never-made" in producer._producer.client._topics)
        with pytest.raises(EventTooLarge):
            await producer.send(user_event().to_event(), small)
        with pytest.raises(SendFailed, match="KafkaConnectionError"):
            async with asyncio.timeout(10):
                await waiting


async def test_what_is_too_large_is_refused_here_or_by_the_topic(kafka: Any, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1, **{"max.message.bytes": "2000"})
    event = user_event().to_event()

    def with_bytes(size: int) -> Event:
        return Event(**{name: getattr(event, name) for name in event.__slots__} | {"data": b"x" * size})

    async with open_producer(kafka.settings()) as producer:
        with pytest.raises(EventTooLarge, match="more than 900000"):
            await producer.send(with_bytes(MAX_DATA_BYTES + 1), topic)
        with pytest.raises(EventTooLarge, match="takes no record of this size"):
            await producer.send(with_bytes(3000), topic)
        await producer.send(event, topic)
    assert len(await kafka.read(topic, 1)) == 1
