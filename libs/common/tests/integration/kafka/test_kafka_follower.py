"""Following on a real broker: everything is heard, by everybody, and it is known when that is so."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from shop_common.events.envelope import Event
from shop_common.events.users import UserUpdated
from shop_common.kafka.follower import Follower
from shop_common.kafka.settings import KafkaSettings

Create = Callable[..., UserUpdated]
Until = Callable[..., Awaitable[None]]
HOUR = 3600.0


class Listener:
    """What one follower heard: versions, and a `begin` wherever something may have been missed."""

    def __init__(self) -> None:
        self.heard: list[int | str] = []

    async def on_begin(self) -> None:
        self.heard.append("begin")

    async def on_records(self, records: Sequence[Any]) -> None:
        self.heard += [Event.from_kafka(record).sequence for record in records]


@asynccontextmanager
async def following(settings: KafkaSettings, listener: Listener, **topics: float) -> AsyncIterator[Follower]:
    stop = asyncio.Event()
    follower = Follower(settings, topics, listener.on_begin, listener.on_records)
    running = asyncio.create_task(follower.run(stop))
    try:
        yield follower
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await running


def is_current(follower: Follower) -> bool:
    return follower.lag_seconds < 2


async def test_each_follower_hears_everything_from_then_on(kafka: Any, user_event: Create, wait_until: Until) -> None:
    topic = await kafka.topic()
    await kafka.put(topic, user_event(version=1))
    listeners = [Listener(), Listener()]
    async with AsyncExitStack() as stack:
        for listener in listeners:
            follower = await stack.enter_async_context(following(kafka.settings(), listener, **{topic: 0.0}))
            await wait_until(lambda follower=follower: is_current(follower))
            assert listener.heard == ["begin"], "what was there before is not heard"
        await kafka.put(topic, *(user_event(version=version) for version in range(2, 30)))
        for listener in listeners:
            await wait_until(lambda listener=listener: len(listener.heard) == 29)
            assert sorted(each for each in listener.heard if isinstance(each, int)) == list(range(2, 30))


async def test_it_looks_back_as_far_as_it_is_told(kafka: Any, user_event: Create) -> None:
    topic = await kafka.topic()
    await kafka.put(topic, user_event(version=1))
    listener = Listener()
    async with following(kafka.settings(), listener, **{topic: 365 * 24 * HOUR}) as follower:
        await follower.settle(30)
        assert listener.heard == ["begin", 1], "settled when that has been heard"
        assert is_current(follower)


async def test_without_a_broker_it_says_so_at_once_and_goes_on_trying(
    broker: Any, kafka: Any, user_event: Create, wait_until: Until
) -> None:
    kafka.bootstrap = broker.bootstrap
    listener = Listener()
    async with following(kafka.settings(), listener, early=HOUR) as follower:
        await follower.settle(30)
        assert not is_current(follower)
        await broker.start()
        assert listener.heard == [], "its topic is not there"
        topic = await kafka.topic("early", partitions=3)
        await kafka.put(topic, *(user_event(version=version) for version in range(1, 10)))
        await wait_until(lambda: is_current(follower))
        await wait_until(lambda: len(listener.heard) == 10)
        assert listener.heard[0] == "begin"


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_broker_that_is_away_for_a_while_costs_nothing_but_time(
    way: signal.Signals, broker: Any, kafka: Any, user_event: Create, wait_until: Until
) -> None:
    kafka.bootstrap = broker.bootstrap
    await broker.start()
    topic = await kafka.topic()
    listener = Listener()
    async with following(kafka.settings(request_timeout_ms=2000), listener, **{topic: 0.0}) as follower:
        await wait_until(lambda: is_current(follower))
        await kafka.put(topic, user_event(version=1))
        await wait_until(lambda: listener.heard == ["begin", 1])
        broker.signal(way)
        await wait_until(lambda: not is_current(follower))
        if way is signal.SIGSTOP:
            broker.signal(signal.SIGCONT)
        else:
            await broker.start()
        await wait_until(lambda: _put(kafka, topic, user_event(version=2)))
        await wait_until(lambda: 2 in listener.heard)
        await wait_until(lambda: is_current(follower))
        assert [each for each in listener.heard if each != 2] == ["begin", 1], (
            "nothing was missed, so nothing begins anew"
        )


async def _put(kafka: Any, topic: str, state: UserUpdated) -> bool:
    async with asyncio.timeout(10):
        await kafka.put(topic, state)
    return True


async def test_what_the_log_has_no_more_is_a_new_beginning(
    broker: Any, kafka: Any, user_event: Create, wait_until: Until
) -> None:
    kafka.bootstrap = broker.bootstrap
    await broker.start()
    topic = await kafka.topic(partitions=1)
    await kafka.put(topic, *(user_event(version=version) for version in range(1, 4)))
    listener = Listener()
    follower = Follower(kafka.settings(), {topic: HOUR}, listener.on_begin, listener.on_records)
    first = asyncio.Event()
    running = asyncio.create_task(follower.run(first))
    await wait_until(lambda: listener.heard == ["begin", 1, 2, 3])
    first.set()
    await running
    await kafka.put(topic, *(user_event(version=version) for version in range(4, 8)))
    await _delete_before(kafka.bootstrap, topic, 6)
    stop = asyncio.Event()
    running = asyncio.create_task(follower.run(stop))
    await wait_until(lambda: is_current(follower))
    await wait_until(lambda: listener.heard == ["begin", 1, 2, 3, "begin", 7])
    stop.set()
    await running


async def _delete_before(bootstrap: str, topic: str, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(offset)})
    finally:
        await admin.close()
