"""Servers that go and come back, fall silent, or forget their connections: bounded errors, then all is as before."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from shop_common.context import request_scope, set_deadline
from shop_common.mongo import MONGO_TRANSIENT, open_mongo
from shop_common.postgres import POSTGRES_TRANSIENT, open_postgres
from shop_common.redis import REDIS_TRANSIENT, open_redis
from shop_common.settings import MongoSettings, PostgresSettings, RedisSettings

SIZE = 3
BOUND_SECONDS = 15
"""Far above what acquiring, commanding and connecting may take by the settings here, far below any driver's own."""

Ask = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Backend:
    proxy: Any
    transient: tuple[type[Exception], ...]
    open: Callable[..., AbstractAsyncContextManager[Ask]]


@pytest.fixture(params=["postgres", "mongo", "redis"])
async def backend(request: Any, proxy: Any, postgres_dsn: str, mongo_database: Any, redis_url: str) -> Backend:
    url = {"postgres": postgres_dsn, "mongo": mongo_database.url, "redis": redis_url}[request.param]
    parts = urlsplit(url)
    before = await proxy(parts.hostname, parts.port)
    url = url.replace(f":{parts.port}", f":{before.port}", 1)

    @asynccontextmanager
    async def postgres(command_seconds: float = 0.5) -> AsyncIterator[Ask]:
        times = {"acquire_seconds": 0.5, "command_seconds": command_seconds}
        settings = PostgresSettings(dsn=url, min_size=SIZE, max_size=SIZE, connect_seconds=0.5, **times)
        async with open_postgres(settings, "outage-test") as opened:
            yield lambda: opened.fetchval("SELECT 1")

    @asynccontextmanager
    async def mongo(command_seconds: float = 0.5) -> AsyncIterator[Ask]:
        times = {"acquire_seconds": 0.5, "command_seconds": command_seconds}
        settings = MongoSettings(
            url=SecretStr(url), database=mongo_database.name, max_size=SIZE, connect_seconds=0.5, **times
        )
        async with open_mongo(settings, "outage-test") as opened:
            yield lambda: opened.database["outage"].find_one({})

    @asynccontextmanager
    async def redis(command_seconds: float = 0.5) -> AsyncIterator[Ask]:
        times = {"acquire_seconds": 0.5, "command_seconds": command_seconds}
        settings = RedisSettings(url=SecretStr(url), max_connections=SIZE, **times)
        async with open_redis(settings) as opened:
            yield lambda: opened.get("outage")

    backends = {
        "postgres": Backend(before, POSTGRES_TRANSIENT, postgres),
        "mongo": Backend(before, MONGO_TRANSIENT, mongo),
        "redis": Backend(before, REDIS_TRANSIENT, redis),
    }
    return backends[request.param]


async def ask_all_at_once(ask: Ask, transient: tuple[type[Exception], ...], count: int = 4 * SIZE) -> int:
    """How many failed; each in time, and as what may be tried again."""
    async with asyncio.timeout(BOUND_SECONDS):
        outcomes = await asyncio.gather(*(ask() for _ in range(count)), return_exceptions=True)
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    assert all(isinstance(each, transient) for each in failures), failures
    return len(failures)


async def recovered(ask: Ask, backend: Backend) -> None:
    """Soon nothing fails any more, twice in a row, with as many at once as there are connections."""
    clean = 0
    async with asyncio.timeout(BOUND_SECONDS):
        while clean < 2:
            failed = await ask_all_at_once(ask, backend.transient)
            clean = 0 if failed else clean + 1
            await asyncio.sleep(0.05)


async def test_a_server_that_is_restarted(backend: Backend) -> None:
    async with backend.open() as ask:
        assert await ask_all_at_once(ask, backend.transient) == 0
        await backend.proxy.close()
        for _ in range(2):
            assert await ask_all_at_once(ask, backend.transient) == 4 * SIZE
        await backend.proxy.listen()
        await recovered(ask, backend)


async def test_a_server_that_is_silent_for_a_while(backend: Backend) -> None:
    async with backend.open() as ask:
        assert await ask_all_at_once(ask, backend.transient) == 0
        backend.proxy.freeze()
        for _ in range(2):
            assert await ask_all_at_once(ask, backend.transient) == 4 * SIZE
        backend.proxy.thaw()
        await recovered(ask, backend)


async def test_connections_whose_other_end_is_gone_without_a_word(backend: Backend) -> None:
    async with backend.open() as ask:
        assert await ask_all_at_once(ask, backend.transient) == 0
        backend.proxy.strand()
        async with asyncio.timeout(BOUND_SECONDS):
            for _ in range(SIZE + 1):  # one after the other: each may meet a connection that is dead
                await asyncio.gather(ask(), return_exceptions=True)
        await recovered(ask, backend)


@pytest.mark.parametrize("backend", ["postgres", "mongo"], indirect=True)
async def test_a_deadline_is_kept_though_the_server_is_silent(backend: Backend) -> None:
    async def late(ask: Ask) -> None:
        with request_scope("late"):
            set_deadline(0.1)
            with pytest.raises((TimeoutError, *backend.transient)):
                async with asyncio.timeout(0.1):
                    await ask()

    async with backend.open(command_seconds=BOUND_SECONDS) as ask:
        await ask()
        backend.proxy.freeze()
        async with asyncio.timeout(BOUND_SECONDS / 3):  # a third of what one command may take by itself
            await asyncio.gather(*(late(ask) for _ in range(2 * SIZE)))
        backend.proxy.thaw()
        await recovered(ask, backend)
