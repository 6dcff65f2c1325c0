"""PostgreSQL through asyncpg: a bounded pool whose every wait has an end, with spans and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.trace import Span, SpanKind

from shop_common.errors import StartupError, Unavailable
from shop_common.metrics import POOL_IN_USE, POOL_SIZE, POOL_TIMEOUTS, POOL_WAIT
from shop_common.settings import PostgresSettings
from shop_common.tracing import span

POSTGRES_TRANSIENT: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InterfaceError,
    ConnectionError,
    TimeoutError,
)
"""The server is away or busy: nothing is wrong with the request, and it may be tried again."""

_POOL = "postgres"


class Postgres:
    """The pool. One statement: `fetch…` and `execute`; several: `transaction()`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """Lend a connection; Unavailable (503) when none is free in time."""
        started = time.perf_counter()
        try:
            connection = await self._pool.acquire(timeout=self._settings.acquire_seconds)
        except TimeoutError:
            POOL_TIMEOUTS.labels(_POOL).inc()
            raise Unavailable("No database connection was free in time") from None
        finally:
            POOL_WAIT.labels(_POOL).observe(time.perf_counter() - started)
            self._measure()
        try:
            yield connection
        finally:
            await self._pool.release(connection, timeout=self._settings.command_seconds)
            self._measure()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """A READ COMMITTED transaction: committed at the end of the block, rolled back when it raises."""
        with span("postgres transaction", SpanKind.CLIENT, {"db.system.name": "postgresql"}):
            async with self.connection() as connection, connection.transaction():
                yield connection

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        with _statement_span(statement):
            async with self.connection() as connection:
                return await connection.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        with _statement_span(statement):
            async with self.connection() as connection:
                return await connection.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        with _statement_span(statement):
            async with self.connection() as connection:
                return await connection.fetchval(statement, *arguments)

    async def execute(self, statement: str, *arguments: object) -> str:
        with _statement_span(statement):
            async with self.connection() as connection:
                return await connection.execute(statement, *arguments)

    async def check(self) -> None:
        """Raise unless the server answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1")

    def _measure(self) -> None:
        POOL_SIZE.labels(_POOL).set(self._pool.get_size())
        POOL_IN_USE.labels(_POOL).set(self._pool.get_size() - self._pool.get_idle_size())


@asynccontextmanager
async def open_postgres(settings: PostgresSettings, application_name: str) -> AsyncIterator[Postgres]:
    """Open the pool and prove the server answers; StartupError names the address otherwise."""
    milliseconds = int(settings.command_seconds * 1000)
    pool = asyncpg.create_pool(
        settings.dsn,
        password=settings.password.get_secret_value() if settings.password else None,
        min_size=settings.min_size,
        max_size=settings.max_size,
        timeout=settings.connect_seconds,
        command_timeout=settings.command_seconds,
        max_inactive_connection_lifetime=settings.idle_seconds,
        server_settings={
            "application_name": application_name,
            "statement_timeout": str(milliseconds),
            "idle_in_transaction_session_timeout": str(milliseconds * 2),
        },
    )
    try:
        await pool
        await pool.fetchval("SELECT 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        pool.terminate()
        raise StartupError(
            f"PostgreSQL at {_address(settings.dsn)} refuses: {error}; start it or correct the DSN"
        ) from error
    try:
        yield Postgres(pool, settings)
    finally:
        await _close(pool, settings.command_seconds)


async def _close(pool: "asyncpg.Pool[asyncpg.Record]", seconds: float) -> None:
    try:
        await asyncio.wait_for(pool.close(), seconds)
    except TimeoutError:
        pool.terminate()


def _statement_span(statement: str) -> AbstractContextManager[Span | None]:
    """Statements are constants with parameters apart, so their text holds nobody's data."""
    text = " ".join(statement.split())
    attributes = {"db.system.name": "postgresql", "db.query.text": text[:300]}
    return span(f"postgres {text.partition(' ')[0]}", SpanKind.CLIENT, attributes)


def _address(dsn: str) -> str:
    """Host, port and database: what may be printed of a DSN."""
    parts = urlsplit(dsn)
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}"
