"""The writing half of the outbox: an event's row, and the nudge that wakes the relay after a commit."""

import asyncio
import json
import logging
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from shop_common.events.envelope import Event
from shop_common.postgres import POSTGRES_TRANSIENT, Postgres

SHARDS = 16
CHANNEL = "outbox"
NUDGE_SECONDS = 0.025

NOTIFY = "SELECT pg_notify($1, '')"

Nudge = Callable[[], None]

_logger = logging.getLogger(__name__)


def outbox_row(event: Event, topic: str) -> tuple[object, ...]:
    """The columns shard, event_id, aggregate_id, version, topic, key, headers, payload."""
    headers = {
        "type": event.type,
        "source": event.source,
        "time": event.time.isoformat(),
        "traceparent": event.traceparent,
    }
    aggregate_id = UUID(event.subject)
    return (
        zlib.crc32(aggregate_id.bytes) % SHARDS,
        event.id,
        aggregate_id,
        event.sequence,
        topic,
        event.key.encode(),
        json.dumps(headers),
        event.data,
    )


class _Nudger:
    """Wakes the relays; on its own connection, since NOTIFY inside a transaction takes a lock of the whole database."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._wanted = asyncio.Event()

    def nudge(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._postgres.execute(NOTIFY, CHANNEL)
            except POSTGRES_TRANSIENT:
                _logger.debug("no nudge", exc_info=True)  # the relay polls anyway
            await asyncio.sleep(NUDGE_SECONDS)


@asynccontextmanager
async def open_nudge(postgres: Postgres) -> AsyncIterator[Nudge]:
    """Call what this yields after each commit; however often, the relays hear of it once per 25 ms."""
    nudger = _Nudger(postgres)
    task = asyncio.create_task(nudger.run())
    try:
        yield nudger.nudge
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
