"""PostgreSQL through asyncpg: a bounded pool whose every wait has an end, with spans and metrics."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import lru_cache
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.trace import SpanKind

from shop_common.context import before_deadline
from shop_common.errors import StartupError, Unavailable
from shop_common.metrics import POOL_IN_USE, POOL_SIZE, POOL_TIMEOUTS, POOL_WAIT, from_zero
from shop_common.settings import PostgresSettings, printable_address
from shop_common.tracing import span

POSTGRES_TRANSIENT: tuple[type[Exception], ...] = (
    Unavailable,  # the pool's own word
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shut down, starting up, statement timeout
    asyncpg.InsufficientResourcesError,  # connections, memory, disk
    asyncpg.TransactionRollbackError,  # deadlock, serialisation
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that is one no more
    ConnectionError,
    TimeoutError,
)
"""The server is away or busy: nothing is wrong with the request, and it may be tried again."""

_POOL = "postgres"
_logger = logging.getLogger(__name__)


class Postgres:
    """The pool. One statement: `fetch…` and `execute`; several: `transaction()`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._releasing: set[asyncio.Task[None]] = set()
        from_zero(POOL_TIMEOUTS, _POOL)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """Lend a connection; Unavailable (503) when none is to be had in time.

        Who is cancelled does not wait for it to be cleaned, which a silent server would make a matter of seconds.
        """
        connection = await self._acquire()
        try:
            yield connection
        except TimeoutError:  # no word from the server, which would have ended the statement: expect none elsewhere
            await self._pool.expire_connections()
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if _is_lost(connection):  # the driver has the same class for calls that are wrong
                raise asyncpg.ConnectionDoesNotExistError(str(error)) from error
            raise
        finally:
            if isinstance(sys.exception(), asyncio.CancelledError):
                releasing = asyncio.create_task(self._release(connection))
                self._releasing.add(releasing)
                releasing.add_done_callback(self._releasing.discard)
            else:
                await self._release(connection)

    async def _acquire(self) -> "PoolConnectionProxy[asyncpg.Record]":
        started = time.perf_counter()
        try:
            return await self._pool.acquire(timeout=before_deadline(self._settings.acquire_seconds))
        except TimeoutError:
            POOL_TIMEOUTS.labels(_POOL).inc()
            raise Unavailable("No database connection was free in time") from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _logger.warning("no database connection", extra={"error": f"{type(error).__name__}: {error}"})
            raise Unavailable("The database cannot be reached") from error
        finally:
            POOL_WAIT.labels(_POOL).observe(time.perf_counter() - started)
            self._measure()

    async def _release(self, connection: "PoolConnectionProxy[asyncpg.Record]") -> None:
        try:
            await self._pool.release(connection, timeout=self._settings.command_seconds)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            # The pool has dropped it. What was done with it stands, and a cancellation must not become another error.
            _logger.warning("a database connection was dropped", extra={"error": f"{type(error).__name__}: {error}"})
        finally:
            self._measure()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """A READ COMMITTED transaction: committed at the end of the block, rolled back when it raises."""
        with span("postgres transaction", SpanKind.CLIENT, {"db.system.name": "postgresql"}):
            async with self.connection() as connection, AsyncExitStack() as stack:
                await stack.enter_async_context(connection.transaction())
                try:
                    yield connection
                except asyncio.CancelledError:
                    stack.pop_all()  # it is rolled back as its connection is cleaned
                    raise

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._for_statement(statement) as connection:
            return await connection.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        async with self._for_statement(statement) as connection:
            return await connection.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: object) -> Any:
        async with self._for_statement(statement) as connection:
            return await connection.fetchval(statement, *arguments)

    async def execute(self, statement: str, *arguments: object) -> str:
        async with self._for_statement(statement) as connection:
            return await connection.execute(statement, *arguments)

    @asynccontextmanager
    async def _for_statement(self, statement: str) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        with span(*_described(statement)):
            async with self.connection() as connection:
                yield connection

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
    milliseconds = int(settings.command_seconds * 900)  # a server that is there ends its statement before we give up
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
            "client_connection_check_interval": "1s",  # else a statement whose client is gone runs to its end
        },
    )
    try:
        try:
            await pool
            await pool.fetchval("SELECT 1")
        except ValueError:  # its message may quote the DSN
            raise StartupError("the PostgreSQL DSN is not usable; correct it") from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise StartupError(
                f"PostgreSQL at {printable_address(settings.dsn)} refuses: {reason}; start it or correct the DSN"
            ) from error
        yield Postgres(pool, settings)
    finally:
        with suppress(TimeoutError):  # a close that is cut short drops the connections
            await asyncio.wait_for(pool.close(), settings.command_seconds)


def _is_lost(connection: "PoolConnectionProxy[asyncpg.Record]") -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has dropped it already
        return True


@lru_cache(maxsize=256)
def _described(statement: str) -> tuple[str, SpanKind, Mapping[str, str]]:
    """Name, kind and attributes of its span. Statements are constants, so their text holds nobody's data."""
    text = " ".join(statement.split())
    attributes = {"db.system.name": "postgresql", "db.query.text": text[:300]}
    return f"postgres {text.partition(' ')[0]}", SpanKind.CLIENT, attributes
