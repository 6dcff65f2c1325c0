"""MongoDB through motor: a bounded pool whose every wait has an end, with spans and metrics.

motor is named by the platform and lives only here and in the stores, typed by what it shares with pymongo's own
asynchronous client; see the decision record about it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from types import ModuleType
from typing import Any

import pymongo
from motor.core import AgnosticClient
from motor.frameworks import asyncio as asyncio_framework
from motor.metaprogramming import create_class_with_framework
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from opentelemetry.trace import SpanKind, Status, StatusCode
from pymongo import monitoring
from pymongo.errors import (
    ConnectionFailure,
    ExecutionTimeout,
    PyMongoError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from shop_common.closing import close_in_thread
from shop_common.context import before_deadline, remaining_seconds
from shop_common.errors import StartupError
from shop_common.metrics import POOL_IN_USE, POOL_SIZE, POOL_TIMEOUTS, POOL_WAIT, from_zero
from shop_common.settings import MongoSettings, printable_address
from shop_common.tracing import RecordedSpan, begin_span

MONGO_TRANSIENT: tuple[type[Exception], ...] = (
    ConnectionFailure,  # AutoReconnect, NetworkTimeout, NotPrimaryError and ServerSelectionTimeoutError are such
    ExecutionTimeout,
    WaitQueueTimeoutError,
    WriteConcernError,  # done, but not known to be kept: the same again finds out
)
"""The server is away or busy: nothing is wrong with the request, and it may be tried again."""

_POOL = "mongo"
_CLOSE_SECONDS = 2.0
Database = AsyncIOMotorDatabase[dict[str, Any]]


class Mongo:
    """The database this service owns."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def check(self) -> None:
        """Raise unless the server answers."""
        await self.database.command("ping")


class _Threads:
    """Where motor's calls block: a thread for each connection, and an end to waiting for one, and to the call.

    Left to itself, motor has five threads per core, for which calls wait without end, and goes on with what nobody
    awaits any more for as long as its sockets allow.
    """

    def __init__(self, settings: MongoSettings) -> None:
        self._acquire_seconds = settings.acquire_seconds
        self._command_seconds = settings.command_seconds
        self._free = asyncio.Semaphore(settings.max_size)
        self._executor = ThreadPoolExecutor(settings.max_size, _POOL)
        from_zero(POOL_TIMEOUTS, _POOL)

    def create_client_class(self) -> type[AsyncIOMotorClient[dict[str, Any]]]:
        framework = ModuleType("shop_common.mongo.framework")
        vars(framework).update(vars(asyncio_framework), run_on_executor=self._start)
        created: Any = create_class_with_framework(AgnosticClient, framework, "motor.motor_asyncio")
        return created  # type: ignore[no-any-return] # motor makes its classes at run time

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start(
        self, loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any, **options: Any
    ) -> asyncio.Task[Any]:
        return loop.create_task(self._run(loop, partial(call, *arguments, **options)))

    async def _run(self, loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> Any:
        await self._acquire()
        remaining = remaining_seconds()
        seconds = self._command_seconds if remaining is None else min(self._command_seconds, remaining)
        try:
            with pymongo.timeout(max(seconds, 0.001)):  # 0 would be none
                work = self._executor.submit(copy_context().run, call)
        except RuntimeError:
            raise ConnectionFailure("The connections are closed") from None

        def release(_: Future[Any]) -> None:  # when the call has ended, which a cancellation does not make it do
            with suppress(RuntimeError):  # the loop has ended before it
                loop.call_soon_threadsafe(self._free.release)

        work.add_done_callback(release)
        return await asyncio.wrap_future(work)

    async def _acquire(self) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(before_deadline(self._acquire_seconds)):
                await self._free.acquire()
        except TimeoutError:
            POOL_TIMEOUTS.labels(_POOL).inc()
            raise WaitQueueTimeoutError("No database connection was free in time") from None
        finally:
            POOL_WAIT.labels(_POOL).observe(time.perf_counter() - started)


@asynccontextmanager
async def open_mongo(settings: MongoSettings, application_name: str) -> AsyncIterator[Mongo]:
    """Open the pool and prove the server answers; StartupError names the address otherwise."""
    url = settings.url.get_secret_value()
    milliseconds = int(settings.connect_seconds * 1000)
    threads = _Threads(settings)
    try:
        client = threads.create_client_class()(
            url,
            appname=application_name,
            minPoolSize=settings.min_size,
            maxPoolSize=settings.max_size,
            maxIdleTimeMS=int(settings.idle_seconds * 1000),
            connectTimeoutMS=milliseconds,
            serverSelectionTimeoutMS=milliseconds,
            socketTimeoutMS=int(settings.command_seconds * 1000),  # of the driver's own affairs
            w="majority",
            journal=True,
            readConcernLevel="majority",
            tz_aware=True,
            event_listeners=[_CommandSpans(), _PoolMetrics()],
        )
    except (PyMongoError, ValueError, TypeError) as error:
        raise StartupError(f"the MongoDB URL is not usable: {type(error).__name__}; correct it") from error
    try:
        mongo = Mongo(client[settings.database])
        try:
            with pymongo.timeout(settings.connect_seconds):
                await mongo.check()
        except PyMongoError as error:
            raise StartupError(
                f"MongoDB at {printable_address(url)} refuses: {type(error).__name__}; start it or correct the URL"
            ) from error
        yield mongo
    finally:
        threads.close()
        await close_in_thread(client.close, _CLOSE_SECONDS, "close-mongo")  # it says goodbye, and waits for an answer


class _CommandSpans(monitoring.CommandListener):
    """A CLIENT span per command of recorded work; commands' contents stay out of it."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, Any], RecordedSpan] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "ping":
            return
        attributes = {"db.system.name": "mongodb", "db.operation.name": event.command_name}
        collection = event.command.get(event.command_name)
        if isinstance(collection, str):
            attributes["db.collection.name"] = collection
        if span := begin_span(f"mongo {event.command_name}", SpanKind.CLIENT, attributes):
            self._open[event.request_id, event.connection_id] = span

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if started := self._open.pop((event.request_id, event.connection_id), None):
            started.end()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        if started := self._open.pop((event.request_id, event.connection_id), None):
            started.set_status(Status(StatusCode.ERROR))
            started.end()


class _PoolMetrics(monitoring.ConnectionPoolListener):
    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        POOL_SIZE.labels(_POOL).inc()

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        POOL_SIZE.labels(_POOL).dec()

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        POOL_IN_USE.labels(_POOL).inc()

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        POOL_IN_USE.labels(_POOL).dec()

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None: ...
    def connection_check_out_started(self, event: monitoring.ConnectionCheckOutStartedEvent) -> None: ...
    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None: ...
    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None: ...
    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None: ...
    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None: ...
    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None: ...
