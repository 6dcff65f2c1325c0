"""Only what is done, without a gap, is committed; nothing is lost when consumers stop, die, come and go."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.protocol.group import LeaveGroupRequest
from prometheus_client import REGISTRY

from shop_common.events.envelope import Event
from shop_common.events.users import UserUpdated

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]


async def test_a_record_not_done_holds_back_the_commit(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1)
    states = [user_event(note=f"user{number}") for number in range(10)]
    first: list[str] = []
    second: list[str] = []

    async def blocks_on_the_fourth(event: Event, data: UserUpdated) -> None:
        if data.username == "user3":
            await asyncio.Event().wait()
        first.append(data.username)

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        second.append(data.username)

    await kafka.put(topic, *states)
    async with kafka.consuming(topic, {UserUpdated: blocks_on_the_fourth}, drain_seconds=0.2):
        await wait_until(lambda: len(first) == 9)
    assert await kafka.committed(topic) == {0: 3}

    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await wait_until(lambda: len(second) == 7)
    assert sorted(second) == [f"user{number}" for number in range(3, 10)]
    assert await kafka.committed(topic) == {0: 10}


async def test_commits_happen_while_consuming(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1)

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        pass

    async def is_committed() -> bool:
        return bool(await kafka.committed(topic) == {0: 5})

    await kafka.put(topic, *(user_event() for _ in range(5)))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await wait_until(is_committed)


async def test_a_stop_waits_for_the_handler_under_way(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, user = await kafka.topic(partitions=1), uuid4()
    started, gate, seen = asyncio.Event(), asyncio.Event(), []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        started.set()
        await gate.wait()
        seen.append(data.version)

    await kafka.put(topic, user_event(user, 1), user_event(user, 2))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await started.wait()
        asyncio.get_running_loop().call_later(0.3, gate.set)

    assert seen == [1], "the one under way ends, the one behind it does not start"
    assert await kafka.committed(topic) == {0: 1}


async def test_a_cancelled_consumer_drains_nothing_and_leaves_its_group(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    topic = await kafka.topic(partitions=1)
    started, ended = asyncio.Event(), []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(data.id)

    await kafka.put(topic, user_event())
    with pytest.raises(asyncio.CancelledError):  # noqa: PT012 - the consumer ends with the block
        async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
            await started.wait()
            [running] = [task for task in asyncio.all_tasks() if "EventConsumer.run" in str(task.get_coro())]
            running.cancel()

    assert len(ended) == 1
    assert await kafka.committed(topic) == {}


async def test_members_come_and_go_and_nothing_is_lost(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, users = await kafka.topic(partitions=6), [uuid4() for _ in range(30)]
    seen: Counter[tuple[Any, int]] = Counter()
    by_member: dict[str, set[Any]] = {"first": set(), "second": set()}

    def handler(member: str) -> Callable[[Event, UserUpdated], Awaitable[None]]:
        async def on_user_updated(event: Event, data: UserUpdated) -> None:
            assert (data.version == 1) or seen[data.id, data.version - 1], "a version before the one below it"
            await asyncio.sleep(0.002)
            seen[data.id, data.version] += 1
            by_member[member].add(data.id)

        return on_user_updated

    async def put(versions: range) -> None:
        await kafka.put(topic, *(user_event(user, version) for version in versions for user in users))

    await put(range(1, 11))
    async with kafka.consuming(topic, {UserUpdated: handler("first")}):
        await wait_until(lambda: len(seen) > 50)
        async with kafka.consuming(topic, {UserUpdated: handler("second")}):
            await put(range(11, 21))
            await wait_until(lambda: len(by_member["second"]) > 5)
        await put(range(21, 26))
        await wait_until(lambda: len(seen) == 30 * 25)

    assert set(seen) == {(user, version) for user in users for version in range(1, 26)}
    assert set(seen.values()) == {1}, "drained and committed at each rebalance, so nothing came twice"
    assert sum((await kafka.committed(topic)).values()) == 30 * 25


async def test_nothing_is_committed_for_partitions_given_up(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1)
    started = asyncio.Event()

    async def never_ends(event: Event, data: UserUpdated) -> None:
        started.set()
        await asyncio.Event().wait()

    await kafka.put(topic, user_event())
    async with kafka.consuming(topic, {UserUpdated: never_ends}, drain_seconds=0.2) as consumer:
        await started.wait()
        membership = consumer._membership
        [box] = membership._boxes.values()
        [entry] = box.tracker._pending
        await membership.on_partitions_revoked({TopicPartition(topic, 0)})
        box.tracker.complete(entry)  # too late: somebody else has the partition now
        await membership._commit()

        assert box.tracker.to_commit() == 1
        assert membership._boxes == {}
    assert await kafka.committed(topic) == {}


async def test_a_member_that_dies_is_replaced(kafka: Any, wait_until: Until, user_event: Create) -> None:
    """One that fetched and committed nothing, and is heard of no more: after the session the other has it all."""
    topic = await kafka.topic(partitions=1)
    seen: list[str] = []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        seen.append(data.username)

    await kafka.put(topic, user_event(note="kept"))
    dead = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap,
        group_id=kafka.group,
        session_timeout_ms=6000,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await dead.start()
    assert (await dead.getone()).key
    dead._coordinator._heartbeat_task.cancel()  # no farewell to the group
    try:
        async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
            await wait_until(lambda: seen == ["kept"])
    finally:
        await dead.stop()


async def test_a_member_that_was_replaced_commits_nothing_over_its_successor(
    kafka: Any, wait_until: Until, user_event: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a freeze longer than the session: the group went on without it, and is empty when it wakes up."""
    topic = await kafka.topic(partitions=1)
    gate, begun, seen = asyncio.Event(), Counter[str](), list[str]()

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        begun[data.username] += 1
        if data.username in {"user3", "user6"}:
            await (gate.wait() if data.username == "user3" else asyncio.Event().wait())
        seen.append(data.username)

    async def heard() -> bool:
        return True

    user = uuid4()
    await kafka.put(topic, *(user_event(user, number + 1, f"user{number}") for number in range(10)))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}) as consumer:
        coordinator = consumer._membership._consumer._coordinator
        monkeypatch.setattr(coordinator, "_do_heartbeat", heard)  # which would tell that the session is over
        await wait_until(lambda: begun["user3"] == 1)
        await coordinator._send_req(LeaveGroupRequest(kafka.group, coordinator.member_id))
        successor = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=kafka.group, enable_auto_commit=False)
        partition = TopicPartition(topic, 0)
        successor.assign([partition])
        await successor.start()
        await successor.commit({partition: OffsetAndMetadata(10, "")})
        await successor.stop()

        gate.set()
        await wait_until(lambda: begun["user6"] == 1)
        monkeypatch.undo()
        await kafka.put(topic, user_event(user, 11, "user10"))
        await wait_until(lambda: "user10" in seen)
    assert seen == ["user0", "user1", "user2", "user3", "user4", "user5", "user10"]
    assert begun["user6"] == 1, "its successor has done that"
    assert await kafka.committed(topic) == {0: 11}


async def test_the_lag_is_told_for_what_is_assigned(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, gate = await kafka.topic(partitions=1), asyncio.Event()
    labels = {"group": kafka.group, "topic": topic, "partition": "0"}

    def lag() -> float | None:
        return REGISTRY.get_sample_value("shop_consumer_lag", labels)

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        await gate.wait()

    await kafka.put(topic, *(user_event() for _ in range(5)))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}) as consumer:
        await wait_until(lambda: lag() == 5)
        gate.set()
        await wait_until(lambda: lag() == 0)
        await consumer._membership.on_partitions_revoked({TopicPartition(topic, 0)})
        assert lag() is None, "somebody else tells it now"
