"""Throwing away a consumer: whatever its `stop()` does, the caller goes on, and nothing of it runs on."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka.errors import KafkaConnectionError

from shop_common.kafka.discard import discard_consumer


async def hangs() -> None:
    await asyncio.Event().wait()


async def is_cancelled_inside() -> None:
    raise asyncio.CancelledError


async def fails() -> None:
    raise KafkaConnectionError


async def ends() -> None:
    pass


class Part:
    """Stands for aiokafka's coordinator and its client."""

    def __init__(self) -> None:
        self._heartbeat_task = asyncio.create_task(hangs())
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Consumer:
    _fetcher = None

    def __init__(self, stop: Callable[[], Awaitable[None]]) -> None:
        self._coordinator = self._client = Part()
        self.stop = stop


@pytest.mark.parametrize("stop", [hangs, is_cancelled_inside, fails])
async def test_a_stop_that_does_not_end_well_is_ended(stop: Callable[[], Awaitable[None]]) -> None:
    consumer = Consumer(stop)
    await discard_consumer(consumer, 0.01)

    assert consumer._client.closed
    assert consumer._coordinator._heartbeat_task.cancelled()
    assert len(asyncio.all_tasks()) == 1


async def test_a_stop_that_ends_well_is_all() -> None:
    consumer = Consumer(ends)
    await discard_consumer(consumer)

    assert not consumer._client.closed
    consumer._coordinator._heartbeat_task.cancel()


async def test_our_own_cancellation_stays_one_and_leaves_nothing_behind() -> None:
    consumer = Consumer(hangs)
    discarding = asyncio.create_task(discard_consumer(consumer, 3600))
    await asyncio.sleep(0)
    discarding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await discarding

    assert consumer._client.closed
    assert len(asyncio.all_tasks()) == 1
