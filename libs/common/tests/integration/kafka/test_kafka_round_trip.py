"""Events through a real broker: the same at both ends, in order per key, many keys at once."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from shop_common.events.envelope import Event
from shop_common.events.users import UserDeactivated, UserUpdated
from shop_common.kafka.mailboxes import HIGH_WATER
from shop_common.kafka.producer import open_producer

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]


async def test_an_event_arrives_as_it_was_sent(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, state = await kafka.topic(), user_event(version=7)
    seen: list[tuple[Event, UserUpdated]] = []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        seen.append((event, data))

    async with open_producer(kafka.settings()) as producer:
        await producer.send(state.to_event(), topic)
        await producer.ready()
        async with kafka.consuming(topic, {UserUpdated: on_user_updated}) as consumer:
            await wait_until(lambda: len(seen) == 1)
            await consumer.ready()

    assert seen == [(state.to_event(), state)]
    assert sum((await kafka.committed(topic)).values()) == 1


async def test_a_key_is_in_order_whatever_its_handlers_take(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, users = await kafka.topic(partitions=3), [uuid4() for _ in range(15)]
    seen: dict[UUID, list[int]] = defaultdict(list)
    running: set[UUID] = set()

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        assert data.id not in running
        running.add(data.id)
        await asyncio.sleep(data.id.int * data.version % 11 / 1000)
        running.remove(data.id)
        seen[data.id].append(data.version)

    await kafka.put(topic, *(user_event(user, version) for version in range(1, 21) for user in users))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await wait_until(lambda: sum(map(len, seen.values())) == 300)

    assert seen == {user: list(range(1, 21)) for user in users}
    assert sum((await kafka.committed(topic)).values()) == 300


async def test_keys_of_one_partition_run_at_once(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1)
    together, done = asyncio.Barrier(10), []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        await together.wait()  # would never pass if they ran one by one
        done.append(data.id)

    await kafka.put(topic, *(user_event() for _ in range(10)))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await wait_until(lambda: len(done) == 10)


async def test_a_type_without_a_handler_is_acknowledged_and_counted(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    topic = await kafka.topic(partitions=1)
    seen: list[str] = []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        seen.append(event.type)

    state = user_event()
    key, _, headers = state.to_event().to_kafka()
    async with kafka.raw_producer() as producer:
        renamed = [(name, b"users.user_moved.v3" if name == "ce_type" else text) for name, text in headers]
        await producer.send_and_wait(topic, value=b"not even JSON", key=key, headers=renamed)
    await kafka.put(topic, UserDeactivated(**state.model_dump()), state)
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await wait_until(lambda: len(seen) == 1)

    assert await kafka.committed(topic) == {0: 3}
    counted = {"group": kafka.group, "type": "unknown", "outcome": "ignored"}
    assert REGISTRY.get_sample_value("shop_events_consumed_total", counted) == 2


@pytest.mark.parametrize("users", [1, 3000])
async def test_more_records_than_the_mailboxes_hold(
    kafka: Any, wait_until: Until, user_event: Create, users: int
) -> None:
    """Fetching pauses above the high-water mark and goes on below the low one; nothing is skipped by either.

    However many keys there are, a partition holds no more than that mark and one poll.
    """
    topic, ids = await kafka.topic(partitions=1), [uuid4() for _ in range(users)]
    gate, seen, peak = asyncio.Event(), [], 0

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        nonlocal peak
        await gate.wait()
        seen.append(data.version)
        peak = max(peak, box.backlog)

    await kafka.put(topic, *(user_event(ids[version % users], version) for version in range(1, 3001)))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}) as consumer:
        [box] = consumer._membership._boxes.values()
        await wait_until(lambda: box.backlog >= HIGH_WATER)
        assert len(box._tasks) <= box.backlog < HIGH_WATER + 500
        gate.set()
        await wait_until(lambda: len(seen) == 3000)

    assert (sorted(seen) if users > 1 else seen) == list(range(1, 3001))
    assert peak < HIGH_WATER + 500
