"""Consumers that fall silent, fail or have a bug: replaced, or the process ends; never mistaken for busy ones."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from shop_common.events.envelope import Event
from shop_common.events.users import UserUpdated
from shop_common.kafka import consumer as consumer_module
from shop_common.kafka.consumer import ConsumerStuck, EventConsumer
from shop_common.kafka.producer import open_producer

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]


async def silent(*_: Any, **__: Any) -> None:
    """A consumer that hangs without an error, as aiokafka's have done."""
    await asyncio.Event().wait()


async def gives_up(*_: Any, **__: Any) -> None:
    """A cancellation that nobody here asked for."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("fault", [silent, gives_up])
async def test_a_consumer_that_fails_so_is_replaced(
    kafka: Any, wait_until: Until, user_event: Create, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    topic = await kafka.topic(partitions=1)
    created: list[Any] = []
    seen: list[str] = []

    class FirstOneSilent(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka ships no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            created.append(self)
            if len(created) == 1:
                self.getmany = fault

    monkeypatch.setattr(consumer_module, "AIOKafkaConsumer", FirstOneSilent)

    await kafka.put(topic, user_event())
    async with kafka.consuming(topic, kafka.noting(seen), stuck_seconds=1):
        await wait_until(lambda: len(seen) == 1)
    assert len(created) == 2


async def test_a_consumer_that_stays_silent_ends_the_process(
    kafka: Any, user_event: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await kafka.topic(partitions=1)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", silent)
    await kafka.put(topic, user_event())

    settings = kafka.settings(stuck_seconds=1)
    async with open_producer(settings) as producer:
        consumer = EventConsumer(settings, group=kafka.group, topics=[topic], handlers={}, producer=producer)
        with pytest.raises(ConsumerStuck):
            async with asyncio.timeout(40):
                await consumer.run(asyncio.Event())


async def test_silence_without_lag_is_no_trouble(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, seen = await kafka.topic(partitions=1), list[str]()

    await kafka.put(topic, user_event())
    async with kafka.consuming(topic, kafka.noting(seen), stuck_seconds=0.3) as consumer:
        await wait_until(lambda: len(seen) == 1)
        [box] = consumer._membership._boxes.values()
        first = box.moved_at
        # The watchdog looks every 0.05 s, and says of what is done that it has moved.
        await wait_until(lambda: box.moved_at > first + 1)
        assert consumer._membership.assigned


async def test_waiting_for_a_turn_is_no_trouble(
    kafka: Any, wait_until: Until, user_event: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All handlers are busy, for longer than a silent consumer is given, and another partition's record waits."""
    topic, seen, turns = await kafka.topic(partitions=2), list[str](), asyncio.Semaphore(0)

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        await turns.acquire()
        seen.append(data.username)

    looks: list[float] = []
    behind = consumer_module._Membership._behind

    async def noted(self: Any) -> Any:
        looks.append(time.monotonic())
        return await behind(self)

    def late(membership: Any) -> int:
        """How often the watchdog has found a partition late."""
        return sum(box.moved_at < look - 2 for look in looks for box in membership._boxes.values())

    monkeypatch.setattr(consumer_module._Membership, "_behind", noted)
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}, stuck_seconds=2, handlers_at_once=1) as consumer:
        first = consumer._membership
        for partition in (0, 1):
            await kafka.put(topic, user_event(note=str(partition)), partition=partition)
        await wait_until(lambda: all(box.backlog for box in first._boxes.values()))
        await wait_until(lambda: late(first) >= 3)
        turns.release()
        await wait_until(lambda: len(seen) == 1)
        turns.release()
        await wait_until(lambda: len(seen) == 2)
        assert consumer._membership is first


async def test_a_bug_in_the_delivery_ends_the_consumer(
    kafka: Any, user_event: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else would be a record that nobody handles and that holds back its partition for ever."""
    topic = await kafka.topic(partitions=1)
    await kafka.put(topic, user_event())
    settings = kafka.settings()
    async with open_producer(settings) as producer:
        consumer = EventConsumer(settings, group=kafka.group, topics=[topic], handlers={}, producer=producer)

        async def broken(*_: Any) -> bool:
            raise ZeroDivisionError

        monkeypatch.setattr(consumer._delivery, "deliver", broken)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(30):
                await consumer.run(asyncio.Event())
    assert await kafka.committed(topic) == {}
