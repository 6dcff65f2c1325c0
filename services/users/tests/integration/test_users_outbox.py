"""The outbox: order per aggregate, claims that pass from relay to relay, nudges."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client import REGISTRY

from shop_common.events.envelope import Event
from shop_common.events.users import TOPIC, UserRegistered, UserUpdated
from shop_common.outbox import OutboxRelay
from shop_common.postgres import Postgres
from shop_common.settings import PostgresSettings
from shop_users.models import User
from shop_users.settings import Settings
from shop_users.store.outbox import CHANNEL, NOTIFY, SHARDS, open_nudge, outbox_row
from shop_users.store.relay import PostgresOutbox, open_outbox
from shop_users.store.users import UserStore

NOW = datetime.now(UTC)
INSERT = """
INSERT INTO outbox (shard, event_id, aggregate_id, version, topic, key, headers, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


def user(version: int = 1, user_id: uuid.UUID | None = None) -> User:
    user_id = user_id or uuid.uuid4()
    return User(user_id, f"{user_id}@example.com", str(user_id), None, "customer", True, version, NOW, NOW)  # noqa: FBT003 - fields in order


@pytest.fixture
def users(postgres: Postgres) -> UserStore:
    return UserStore(postgres, nudge=lambda: None)


@pytest.fixture
async def outbox(postgres: Postgres, settings: Settings) -> AsyncIterator[PostgresOutbox]:
    async with open_outbox(postgres, settings.postgres) as opened:
        yield opened


async def insert(users: UserStore, count: int) -> list[User]:
    made = [user() for _ in range(count)]
    for each in made:
        await users.insert(each, "", each.to_event(UserRegistered))
    return made


async def is_empty(postgres: Postgres) -> bool:
    return not await postgres.fetchval("SELECT EXISTS (SELECT FROM outbox)")


def soon(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """What a task of this process brings about."""

    async def check() -> bool:
        return condition()

    return check


class Log:
    """A broker that acks everything, or fails the sends it is told to."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, str]] = []
        self.failing: set[uuid.UUID] = set()

    async def send(self, event: Event, topic: str) -> None:
        await asyncio.sleep(0)
        if event.id in self.failing:
            raise ConnectionError
        self.events.append((event, topic))

    def versions(self, user_id: uuid.UUID) -> list[int]:
        return [event.sequence for event, _ in self.events if event.subject == str(user_id)]


async def test_what_is_pending_is_the_event_that_was_written(users: UserStore, outbox: PostgresOutbox) -> None:
    ada = user()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = UserRegistered(**{name: getattr(ada, name) for name in UserRegistered.model_fields}).to_event(traceparent)
    await users.insert(ada, "", event)
    (record,) = await outbox.pending(10)
    assert (record.event, record.topic) == (event, TOPIC)
    assert record.event.traceparent == traceparent


async def test_pending_is_oldest_first_over_all_shards_and_bounded(users: UserStore, outbox: PostgresOutbox) -> None:
    made = await insert(users, 40)
    records = await outbox.pending(25)
    assert [record.event.subject for record in records] == [str(each.id) for each in made[:25]]
    assert len({record.position[0] for record in records}) > 4
    await outbox.mark_sent(records)
    await outbox.mark_sent(records)
    assert [record.event.subject for record in await outbox.pending(25)] == [str(each.id) for each in made[25:]]


async def test_what_commits_late_is_found_though_its_id_is_low(
    users: UserStore, outbox: PostgresOutbox, postgres: Postgres
) -> None:
    slow, quick = user(), user()
    async with postgres.transaction() as transaction:
        await transaction.execute(INSERT, *outbox_row(slow.to_event(UserRegistered), TOPIC))
        await users.insert(quick, "", quick.to_event(UserRegistered))
        (first,) = await outbox.pending(10)
        assert first.event.subject == str(quick.id)
        await outbox.mark_sent([first])
    (second,) = await outbox.pending(10)
    assert second.event.subject == str(slow.id)


async def test_versions_of_a_user_are_published_in_order_even_when_a_send_fails(
    users: UserStore, outbox: PostgresOutbox, postgres: Postgres, until: Any
) -> None:
    made = await insert(users, 5)
    for version in range(2, 6):
        for each in made:
            changed = user(version, each.id)
            assert await users.update(changed, changed.to_event(UserUpdated), end_sessions=version % 2 == 0)
    log, stop = Log(), asyncio.Event()
    stuck = made[0]
    log.failing = {user(3, stuck.id).to_event(UserUpdated).id}
    relay = OutboxRelay(outbox, log)
    running = asyncio.create_task(relay.run(stop))
    await until(soon(lambda: len(log.events) >= 22))
    assert log.versions(stuck.id) == [1, 2]
    log.failing.clear()
    await until(lambda: is_empty(postgres))
    stop.set()
    await running
    assert [log.versions(each.id) for each in made] == [[1, 2, 3, 4, 5]] * 5


async def test_an_update_of_an_old_version_writes_nothing(users: UserStore, postgres: Postgres) -> None:
    (ada,) = await insert(users, 1)
    for end_sessions in (True, False):
        stale = user(3, ada.id)
        assert not await users.update(stale, stale.to_event(UserUpdated), end_sessions=end_sessions)
    assert await postgres.fetchval("SELECT version FROM users") == 1
    assert await postgres.fetchval("SELECT count(*) FROM outbox") == 1


async def test_shards_pass_to_another_relay_when_the_first_closes(
    users: UserStore, postgres: Postgres, settings: Settings
) -> None:
    await insert(users, 20)
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(open_outbox(postgres, settings.postgres))
        async with open_outbox(postgres, settings.postgres) as first:
            assert len(await first.pending(50)) == 20
            assert first.claimed == frozenset(range(SHARDS))
            assert await second.pending(50) == []
            assert second.claimed == frozenset()
        assert first.claimed == frozenset()
        assert len(await second.pending(50)) == 20
        assert second.claimed == frozenset(range(SHARDS))


async def test_a_relay_that_lost_its_session_raises_and_claims_anew(
    users: UserStore, outbox: PostgresOutbox, postgres: Postgres, settings: Settings
) -> None:
    await insert(users, 20)
    await outbox.pending(50)
    assert REGISTRY.get_sample_value("shop_outbox_shards") == SHARDS
    await postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'users-relay' AND datname = current_database()"
    )
    # asyncpg has many names for it, depending on what it noticed first.
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await outbox.pending(50)
    assert outbox.claimed == frozenset()
    assert REGISTRY.get_sample_value("shop_outbox_shards") == 0
    async with open_outbox(postgres, settings.postgres) as other:
        assert len(await other.pending(50)) == 20
        assert await outbox.pending(50) == []
    assert len(await outbox.pending(50)) == 20


async def test_two_relays_send_each_event_once_and_one_takes_over_from_a_lost_session(
    users: UserStore, postgres: Postgres, settings: Settings, until: Any
) -> None:
    log, stop = Log(), asyncio.Event()
    async with (
        open_outbox(postgres, settings.postgres) as first,
        open_outbox(postgres, settings.postgres) as second,
    ):
        await first.pending(1)
        relays = [OutboxRelay(outbox, log, idle_poll_seconds=0.02) for outbox in (first, second)]
        running = [asyncio.create_task(relay.run(stop)) for relay in relays]
        made = await insert(users, 30)
        await until(lambda: is_empty(postgres))
        assert (first.claimed, second.claimed) == (frozenset(range(SHARDS)), frozenset())

        running.pop(0).cancel()  # and its session with it, as when its machine is gone
        assert first._session is not None
        await postgres.execute("SELECT pg_terminate_backend($1)", first._session.get_server_pid())
        made += await insert(users, 30)
        await until(lambda: is_empty(postgres))
        assert second.claimed == frozenset(range(SHARDS))
        stop.set()
        await asyncio.gather(*running)
    assert [log.versions(each.id) for each in made] == [[1]] * 60


async def test_a_commit_in_the_api_wakes_the_relay(
    client: httpx.AsyncClient, register: Any, outbox: PostgresOutbox
) -> None:
    nudged = asyncio.Event()
    outbox.listen(nudged.set)
    await outbox.pending(1)
    await register("ada")
    async with asyncio.timeout(5):
        await nudged.wait()


async def test_many_commits_at_once_are_one_nudge(postgres: Postgres, outbox: PostgresOutbox, until: Any) -> None:
    heard = 0

    def count() -> None:
        nonlocal heard
        heard += 1

    outbox.listen(count)
    await outbox.pending(1)
    async with open_nudge(postgres) as nudge:
        for _ in range(100):
            nudge()
        await until(soon(lambda: heard == 1))
    await postgres.execute(NOTIFY, CHANNEL)  # whatever was sent before this has been heard when this is
    await until(soon(lambda: heard >= 2))
    assert heard == 2


async def test_a_nudge_that_cannot_be_sent_harms_nobody(until: Any) -> None:
    class Broken:
        tries = 0

        async def execute(self, *_: object) -> str:
            self.tries += 1
            raise ConnectionError

    broken = Broken()
    async with open_nudge(broken) as nudge:  # type: ignore[arg-type] # the one method it calls
        nudge()
        await until(soon(lambda: broken.tries == 1))
        nudge()
        await until(soon(lambda: broken.tries == 2))


async def test_no_server_no_claims(postgres: Postgres) -> None:
    nowhere = PostgresSettings(dsn="postgresql://nobody@127.0.0.1:1/nothing")
    async with open_outbox(postgres, nowhere) as outbox:
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await outbox.pending(1)
