"""Requests over real sockets to a service on a real pool: whoever leaves, is late or comes too many, nothing leaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn
from fastapi import APIRouter, Request

from shop_common.health import Check
from shop_common.postgres import POSTGRES_TRANSIENT, Postgres, open_postgres
from shop_common.protocol import GuardedHttpProtocol
from shop_common.service import service_app
from shop_common.settings import HttpServerSettings, PostgresSettings, ServiceSettings

POOL = 2
LOCK = 7312
INSERT = "INSERT INTO request_notes (text) VALUES ($1)"
router = APIRouter()


@dataclass(frozen=True, slots=True)
class Resources:
    checks: dict[str, Check]
    postgres: Postgres


@router.post("/notes/{text}")
async def note(request: Request, text: str) -> None:
    """Held by the test between two statements, by a lock in the database."""
    async with request.app.state.resources.postgres.transaction() as transaction:
        await transaction.execute(INSERT, text)
        await transaction.execute("SELECT pg_advisory_xact_lock($1)", LOCK)


@router.get("/notes")
async def count(request: Request) -> int:
    return int(await request.app.state.resources.postgres.fetchval("SELECT count(*) FROM request_notes"))


@router.post("/pauses/{text}")
async def pause(request: Request, text: str) -> None:
    """Late with a transaction open, and no statement under way."""
    async with request.app.state.resources.postgres.transaction() as transaction:
        await transaction.execute(INSERT, text)
        await asyncio.Event().wait()


@pytest.fixture
async def outsider(postgres_dsn: str) -> AsyncIterator[Any]:
    """A connection beside the pool."""
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS request_notes (text text); TRUNCATE request_notes")
    yield connection
    await connection.close()


@pytest.fixture
async def url(postgres_dsn: str, outsider: Any, free_port: Callable[[], int]) -> AsyncIterator[str]:
    pool = PostgresSettings(dsn=postgres_dsn, min_size=POOL, max_size=POOL, acquire_seconds=0.2)

    @asynccontextmanager
    async def open_resources(_: ServiceSettings) -> AsyncIterator[Resources]:
        async with open_postgres(pool, "request-test") as postgres:
            yield Resources({"postgres": postgres.check}, postgres)

    port = free_port()
    settings = ServiceSettings(http=HttpServerSettings(limit_concurrency=20))
    app = service_app("demo", settings, open_resources, routers=[router], transient=POSTGRES_TRANSIENT)
    config = uvicorn.Config(app, port=port, http=GuardedHttpProtocol, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
        yield client


@asynccontextmanager
async def locked(outsider: Any) -> AsyncIterator[None]:
    """Every note's transaction stays open meanwhile."""
    await outsider.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        yield
    finally:
        await outsider.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def states(outsider: Any) -> list[str]:
    found = await outsider.fetch(
        "SELECT state, wait_event_type FROM pg_stat_activity WHERE application_name = 'request-test'"
    )
    return sorted("locked" if row["wait_event_type"] == "Lock" else row["state"] for row in found)


async def waits(until: Any, outsider: Any, *expected: str) -> None:
    async def there() -> bool:
        return await states(outsider) == sorted(expected)

    await until(there)


async def texts(outsider: Any) -> list[str]:
    return [row["text"] for row in await outsider.fetch("SELECT text FROM request_notes ORDER BY text")]


async def test_a_client_that_leaves_in_the_middle_does_not_undo_its_command(
    client: httpx.AsyncClient, outsider: Any, until: Any
) -> None:
    async with locked(outsider):
        asking = [asyncio.create_task(client.post(f"/notes/{name}")) for name in ("a", "b")]
        await waits(until, outsider, "locked", "locked")
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert await states(outsider) == ["locked", "locked"], "the connection to the client has nothing to do with it"
    await waits(until, outsider, "idle", "idle")
    assert await texts(outsider) == ["a", "b"]
    assert (await client.get("/notes")).text == "2"


@pytest.mark.parametrize("path", ["notes", "pauses"])
async def test_a_missed_deadline_undoes_the_command_and_gives_the_connection_back(
    client: httpx.AsyncClient, outsider: Any, until: Any, path: str
) -> None:
    async with locked(outsider):
        posts = [client.post(f"/{path}/late", headers={"X-Deadline-Ms": "150"}) for _ in range(POOL)]
        answers = await asyncio.gather(*posts)
        assert [answer.status_code for answer in answers] == [504] * POOL
        await waits(until, outsider, "idle", "idle")  # while the lock is still held: the statements were cancelled
    assert await texts(outsider) == []
    assert (await asyncio.gather(*(client.get("/notes") for _ in range(POOL))))[0].text == "0"


async def test_a_pool_that_is_used_up_is_503_in_time_and_full_again_afterwards(
    client: httpx.AsyncClient, outsider: Any, until: Any
) -> None:
    async with locked(outsider):
        holding = [asyncio.create_task(client.post(f"/notes/{name}")) for name in ("a", "b")]
        await waits(until, outsider, "locked", "locked")
        async with asyncio.timeout(30):
            answers = await asyncio.gather(
                *(client.get("/notes") for _ in range(60))
            )  # three times what is taken at once
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["retry-after"] for answer in answers} == {"1"}
        assert {answer.json()["code"] for answer in answers} == {"unavailable"}
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (503, {"postgres": "Unavailable"})
    assert [(await each).status_code for each in holding] == [200, 200]
    await waits(until, outsider, "idle", "idle")
    answers = await asyncio.gather(*(client.get("/notes") for _ in range(POOL)))  # as many as need not wait
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "2")}


async def test_probes_are_answered_when_all_else_is_refused(
    client: httpx.AsyncClient, outsider: Any, until: Any
) -> None:
    async with locked(outsider):
        async with asyncio.timeout(30):
            posts = [client.post(f"/notes/{n}", headers={"X-Deadline-Ms": "1000"}) for n in range(100)]
            probes = [client.get(path) for path in ("/livez", "/readyz", "/health") for _ in range(20)]
            answers = await asyncio.gather(*posts, *probes)
        assert {answer.status_code for answer in answers[:100]} <= {503, 504}
        assert {answer.json()["detail"] for answer in answers[:100]} >= {
            "Too many requests are under way; try again shortly"
        }
        assert {answer.status_code for answer in answers[100:120]} == {200}
        assert {answer.status_code for answer in answers[120:140]} <= {200, 503}
        assert {answer.status_code for answer in answers[140:]} == {200}
        await waits(until, outsider, "idle", "idle")
    assert await texts(outsider) == []
