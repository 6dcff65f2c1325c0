"""The PostgreSQL pool: bounded when full, clean after a cancellation, alive again after the server was away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY

from shop_common.context import remaining_seconds, request_scope, set_deadline
from shop_common.errors import Unavailable
from shop_common.postgres import POSTGRES_TRANSIENT, Postgres, open_postgres
from shop_common.settings import PostgresSettings
from shop_common.testing import recorded_spans
from shop_common.tracing import entry_span

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
INSERT = "INSERT INTO pool_notes (text) VALUES ($1)"
COUNT = "SELECT count(*) FROM pool_notes"


@pytest.fixture
async def settings(postgres_dsn: str) -> PostgresSettings:
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS pool_notes (text text); TRUNCATE pool_notes")
    await connection.close()
    return PostgresSettings(dsn=postgres_dsn, min_size=1, max_size=2, acquire_seconds=0.2)


@pytest.fixture
async def postgres(settings: PostgresSettings) -> AsyncIterator[Postgres]:
    async with open_postgres(settings, "pool-test") as opened:
        yield opened


@pytest.fixture
async def outsider(postgres_dsn: str) -> AsyncIterator[Any]:
    """A connection beside the pool."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


def gauge(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"shop_pool_{name}", {"pool": "postgres"})


async def all_returned() -> bool:
    return gauge("connections_in_use") == 0


async def backends(outsider: Any) -> list[Any]:
    """What the server says of the pool's connections."""
    found: list[Any] = await outsider.fetch(
        "SELECT pid, state FROM pg_stat_activity WHERE application_name = 'pool-test'"
    )
    return found


async def test_statements_and_their_results(postgres: Postgres) -> None:
    assert await postgres.execute(INSERT, "a") == "INSERT 0 1"
    assert await postgres.fetchval(COUNT) == 1
    row = await postgres.fetchrow("SELECT text FROM pool_notes")
    assert row is not None
    assert row["text"] == "a"
    assert await postgres.fetchrow("SELECT text FROM pool_notes WHERE text = 'b'") is None
    assert len(await postgres.fetch("SELECT text FROM pool_notes")) == 1
    await postgres.check()


async def test_a_transaction_commits_whole_or_not_at_all(postgres: Postgres) -> None:
    async with postgres.transaction() as connection:
        await connection.execute(INSERT, "kept")

    async def fail_half_way() -> None:
        async with postgres.transaction() as connection:
            await connection.execute(INSERT, "lost")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        await fail_half_way()
    assert [row["text"] for row in await postgres.fetch("SELECT text FROM pool_notes")] == ["kept"]


async def test_a_full_pool_is_unavailable_in_time_and_recovers(postgres: Postgres) -> None:
    timeouts = gauge("timeouts_total") or 0
    async with postgres.connection(), postgres.connection():
        assert (gauge("connections"), gauge("connections_in_use")) == (2, 2)
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*(postgres.fetchval(COUNT) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, Unavailable) for each in outcomes)
        assert gauge("timeouts_total") == timeouts + 20
    assert await asyncio.gather(*(postgres.fetchval(COUNT) for _ in range(2))) == [0, 0]
    assert gauge("connections_in_use") == 0


async def test_a_connection_is_waited_for_until_shortly_before_the_deadline(settings: PostgresSettings) -> None:
    patient = settings.model_copy(update={"acquire_seconds": 60})
    async with open_postgres(patient, "pool-test") as postgres, postgres.connection(), postgres.connection():
        with request_scope("a"):
            set_deadline(1)
            with pytest.raises(Unavailable, match="No database connection was free in time"):
                await postgres.fetchval(COUNT)
            assert remaining_seconds() != 0


@pytest.mark.parametrize("where", ["in the statement", "between statements"])
async def test_a_cancellation_inside_a_transaction_rolls_back_and_returns_the_connection(
    postgres: Postgres, outsider: Any, until: Any, where: str
) -> None:
    inserted = asyncio.Event()

    async def work() -> None:
        async with postgres.transaction() as connection:
            await connection.execute(INSERT, "never")
            inserted.set()
            await (connection.execute("SELECT pg_sleep(60)") if where == "in the statement" else asyncio.Event().wait())

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    await inserted.wait()
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError] * 2

    async def idle() -> bool:
        return [each["state"] for each in await backends(outsider)] == ["idle"] * 2

    await until(idle)
    await until(all_returned)
    assert await asyncio.gather(*(postgres.fetchval(COUNT) for _ in range(4))) == [0] * 4


async def test_many_cancellations_at_any_moment_leak_nothing(postgres: Postgres, outsider: Any, until: Any) -> None:
    async def work() -> None:
        async with postgres.transaction() as connection:
            await connection.execute(INSERT, "never")
            await connection.execute("SELECT pg_sleep(0.002)")
            raise asyncio.CancelledError

    for round_ in range(40):
        tasks = [asyncio.create_task(work()) for _ in range(6)]
        await asyncio.sleep(round_ * 0.0005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await until(all_returned)
    async with postgres.connection(), postgres.connection():
        pass
    assert await postgres.fetchval(COUNT) == 0
    assert all(each["state"] == "idle" for each in await backends(outsider))


async def test_a_server_that_ends_our_sessions_is_transient_and_the_next_call_works(
    postgres: Postgres, outsider: Any
) -> None:
    async def lose_it() -> None:
        async with postgres.transaction() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await outsider.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            await connection.execute(INSERT, "lost")

    for _ in range(3):
        with pytest.raises(POSTGRES_TRANSIENT):
            await lose_it()
    assert await postgres.fetchval(COUNT) == 0
    assert gauge("connections_in_use") == 0


async def test_a_session_lost_between_statements_is_transient_too(
    postgres: Postgres, outsider: Any, until: Any
) -> None:
    async def lose_it() -> None:
        async with postgres.connection() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await outsider.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)

            async def noticed() -> bool:
                return _is_closed(connection)

            await until(noticed)
            await connection.fetchval(COUNT)

    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await lose_it()
    assert await postgres.fetchval(COUNT) == 0


def _is_closed(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


async def test_a_wrong_call_is_not_transient(postgres: Postgres) -> None:
    for kind, statement, arguments in (
        (asyncpg.InterfaceError, "SELECT $1::int", (1, 2)),
        (asyncpg.DataError, "SELECT $1::int", ("seven",)),
        (asyncpg.DataError, "SELECT $1::int", (2**40,)),
        (asyncpg.CharacterNotInRepertoireError, "SELECT $1::text", ("\x00",)),
        (asyncpg.UndefinedTableError, "SELECT 1 FROM never_made", ()),
    ):
        with pytest.raises(kind) as wrong:
            await postgres.fetchval(statement, *arguments)
        assert not isinstance(wrong.value, POSTGRES_TRANSIENT)


async def test_a_statement_that_takes_too_long_is_ended(settings: PostgresSettings) -> None:
    brief = settings.model_copy(update={"command_seconds": 0.2})
    async with open_postgres(brief, "pool-test") as postgres:
        with pytest.raises(POSTGRES_TRANSIENT):
            await postgres.execute("SELECT pg_sleep(60)")
        assert await postgres.fetchval(COUNT) == 0


@pytest.fixture
async def frozen(settings: PostgresSettings) -> AsyncIterator[Postgres]:
    """A pool of one connection whose session has stopped, as in a machine that is out of breath."""
    brief = settings.model_copy(update={"command_seconds": 0.3, "max_size": 1})
    async with open_postgres(brief, "pool-test") as postgres:
        pid = await postgres.fetchval("SELECT pg_backend_pid()")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield postgres
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_a_session_that_is_frozen_is_given_up_in_time(frozen: Postgres) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await frozen.fetchval(COUNT)
        assert await frozen.fetchval(COUNT) == 0


@pytest.mark.parametrize("where", ["a statement", "a transaction"])
async def test_a_cancellation_waits_for_no_frozen_session(frozen: Postgres, until: Any, where: str) -> None:
    async def lent() -> bool:
        return gauge("connections_in_use") == 1

    async def in_transaction() -> None:
        async with frozen.transaction() as connection:
            await connection.execute(INSERT, "never")

    task = asyncio.create_task(in_transaction() if where == "a transaction" else frozen.execute(INSERT, "never"))
    await until(lent)
    await asyncio.sleep(0)  # the statement goes out in the step after the connection is lent
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gauge("connections_in_use") == 1, "the connection is still being given up"
    await until(all_returned)
    assert await frozen.fetchval("SELECT 1") == 1


async def test_a_database_that_cannot_be_reached_any_more_is_unavailable(
    settings: PostgresSettings, caplog: pytest.LogCaptureFixture, outsider: Any
) -> None:
    name = urlsplit(settings.dsn).path[1:]
    async with open_postgres(settings, "pool-test") as postgres:
        await outsider.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        await outsider.execute("CREATE ROLE pool_guest LOGIN PASSWORD 'guest'")
        try:
            postgres._pool.set_connect_args(dsn=settings.dsn, user="pool_guest", password="guest")
            await postgres._pool.expire_connections()
            with pytest.raises(Unavailable, match="cannot be reached"):
                await postgres.check()
        finally:
            await outsider.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
            await outsider.execute("DROP ROLE pool_guest")
    assert "TooManyConnectionsError" in caplog.records[-1].__dict__["error"]


async def test_a_closed_pool_is_unavailable(settings: PostgresSettings) -> None:
    async with open_postgres(settings, "pool-test") as postgres:
        pass
    with pytest.raises(Unavailable):
        await postgres.fetchval("SELECT 1")


async def test_closing_does_not_wait_for_ever_for_a_connection_lent_out(settings: PostgresSettings) -> None:
    brief = settings.model_copy(update={"command_seconds": 0.2})
    async with asyncio.timeout(10):
        async with open_postgres(brief, "pool-test") as postgres:
            lent = await postgres._pool.acquire()
    assert _is_closed(lent)


async def test_statements_of_recorded_work_are_client_spans(postgres: Postgres) -> None:
    with recorded_spans() as spans, entry_span("in", SpanKind.SERVER, SAMPLED):
        await postgres.execute(INSERT, "alice@example.com")
        async with postgres.transaction() as connection:
            await connection.execute(INSERT, "b")
        with pytest.raises(asyncpg.UndefinedTableError):
            await postgres.fetchval("SELECT 1\n  FROM never_made")
    insert, transaction, failed, _ = spans.get_finished_spans()
    assert (insert.name, insert.kind) == ("postgres INSERT", SpanKind.CLIENT)
    assert insert.attributes == {"db.system.name": "postgresql", "db.query.text": INSERT}
    assert transaction.name == "postgres transaction"
    assert failed.attributes is not None
    assert failed.attributes["db.query.text"] == "SELECT 1 FROM never_made"
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "UndefinedTableError")
    assert "alice" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_work_that_is_not_recorded_makes_no_spans(postgres: Postgres) -> None:
    with recorded_spans() as spans, entry_span("in", SpanKind.SERVER, SAMPLED[:-1] + "0"):
        await postgres.fetchval(COUNT)
    assert spans.get_finished_spans() == ()
