"""MongoDB through motor: a bounded pool whose every wait has an end, with spans and metrics.

motor is named by the platform and lives only here and in the stores, typed by what it shares with pymongo's own
asynchronous client; see the decision record about it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from pymongo import monitoring
from pymongo.errors import ConnectionFailure, ExecutionTimeout, PyMongoError, WaitQueueTimeoutError

from shop_common.errors import StartupError
from shop_common.metrics import POOL_IN_USE, POOL_SIZE, POOL_TIMEOUTS, POOL_WAIT
from shop_common.settings import MongoSettings, printable_address
from shop_common.tracing import begin_span

MONGO_TRANSIENT: tuple[type[Exception], ...] = (
    ConnectionFailure,  # AutoReconnect, NetworkTimeout, NotPrimaryError and ServerSelectionTimeoutError are such
    ExecutionTimeout,
    WaitQueueTimeoutError,
)
"""The server is away or busy: nothing is wrong with the request, and it may be tried again."""

_POOL = "mongo"
Database = AsyncIOMotorDatabase[dict[str, Any]]


class Mongo:
    """The database this service owns."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def check(self) -> None:
        """Raise unless the server answers."""
        await self.database.command("ping")


@asynccontextmanager
async def open_mongo(settings: MongoSettings, application_name: str) -> AsyncIterator[Mongo]:
    """Open the pool and prove the server answers; StartupError names the address otherwise."""
    url = settings.url.get_secret_value()
    milliseconds = int(settings.connect_seconds * 1000)
    try:
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            url,
            appname=application_name,
            minPoolSize=settings.min_size,
            maxPoolSize=settings.max_size,
            maxIdleTimeMS=int(settings.idle_seconds * 1000),
            waitQueueTimeoutMS=int(settings.acquire_seconds * 1000),
            connectTimeoutMS=milliseconds,
            serverSelectionTimeoutMS=milliseconds,
            socketTimeoutMS=int(settings.command_seconds * 1000),
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
            await mongo.check()
        except PyMongoError as error:
            raise StartupError(
                f"MongoDB at {printable_address(url)} refuses: {type(error).__name__}; start it or correct the URL"
            ) from error
        yield mongo
    finally:
        await asyncio.to_thread(client.close)  # says goodbye to the server, and waits for its answer


class _CommandSpans(monitoring.CommandListener):
    """A CLIENT span per command of recorded work; commands' contents stay out of it."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, Any], Span] = {}

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
        POOL_WAIT.labels(_POOL).observe(event.duration or 0)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        POOL_IN_USE.labels(_POOL).dec()

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        if event.reason == monitoring.ConnectionCheckOutFailedReason.TIMEOUT:
            POOL_TIMEOUTS.labels(_POOL).inc()

    def connection_check_out_started(self, event: monitoring.ConnectionCheckOutStartedEvent) -> None: ...
    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None: ...
    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None: ...
    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None: ...
    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None: ...
    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None: ...
