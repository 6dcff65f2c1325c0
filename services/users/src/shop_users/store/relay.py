"""The relay's half of the outbox: which shards this process may send, what waits in them, and when more has come."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import asyncpg

from shop_common.events.envelope import Event
from shop_common.outbox import SHARDS_HELD, OutboxRecord
from shop_common.postgres import Postgres
from shop_common.settings import PostgresSettings
from shop_users.store.outbox import CHANNEL, SHARDS, Nudge

# Also proves that the session is alive when there is nothing left to claim.
CLAIM = """
SELECT shard FROM unnest($2::int[]) AS shard WHERE pg_try_advisory_lock($1::int, shard)
"""
LOCK_CLASS = 0x0B0C
"""The first half of the advisory locks' keys; the second is the shard."""

# Never "id > the last one seen": transactions commit in another order than they take their ids.
PENDING = """
SELECT waiting.* FROM unnest($1::smallint[]) AS claimed(shard)
CROSS JOIN LATERAL (
  SELECT shard, id, event_id, aggregate_id, version, topic, key, headers, payload
  FROM outbox WHERE outbox.shard = claimed.shard ORDER BY id LIMIT $2
) AS waiting
ORDER BY id LIMIT $2
"""
DELETE = """
DELETE FROM outbox USING unnest($1::smallint[], $2::bigint[]) AS sent(shard, id)
WHERE outbox.shard = sent.shard AND outbox.id = sent.id
"""

_logger = logging.getLogger(__name__)


class PostgresOutbox:
    """What `OutboxRelay` reads. The claims live in a session of their own, which also listens for nudges."""

    def __init__(self, postgres: Postgres, settings: PostgresSettings) -> None:
        self._postgres = postgres
        self._settings = settings
        self._session: asyncpg.Connection[asyncpg.Record] | None = None
        self._claimed: set[int] = set()
        self._on_nudge: Nudge = lambda: None

    @property
    def claimed(self) -> frozenset[int]:
        """The shards only this process sends, as far as it knows."""
        return frozenset(self._claimed)

    def listen(self, on_nudge: Nudge) -> None:
        """Have this called when an API process has committed events."""
        self._on_nudge = on_nudge

    async def pending(self, limit: int) -> Sequence[OutboxRecord]:
        await self._claim()
        rows = await self._postgres.fetch(PENDING, sorted(self._claimed), limit) if self._claimed else []
        return [_record(row) for row in rows]

    async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
        shards, ids = zip(*(record.position for record in records), strict=True)
        await self._postgres.execute(DELETE, shards, ids)

    async def _claim(self) -> None:
        """Take the shards nobody holds. A lost session has lost its claims: forget them, and raise."""
        if self._session is None:
            self._session = await self._open_session()
        missing = sorted(set(range(SHARDS)) - self._claimed)
        try:
            rows = await self._session.fetch(CLAIM, LOCK_CLASS, missing)
        except BaseException:
            self._drop_session()
            raise
        if rows:
            self._claimed.update(row["shard"] for row in rows)
            SHARDS_HELD.set(len(self._claimed))
            _logger.info("outbox shards claimed", extra={"shards": sorted(self._claimed)})

    async def _open_session(self) -> "asyncpg.Connection[asyncpg.Record]":
        password = self._settings.password
        session = await asyncpg.connect(
            self._settings.dsn,
            password=password.get_secret_value() if password else None,
            timeout=self._settings.connect_seconds,
            command_timeout=self._settings.command_seconds,
            server_settings={
                "application_name": "users-relay",
                # A relay whose machine vanished must not keep its claims for hours.
                "tcp_keepalives_idle": "10",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
            },
        )
        try:
            await session.add_listener(CHANNEL, self._heard)
        except BaseException:
            session.terminate()
            raise
        return session

    def _heard(self, *_: Any) -> None:
        self._on_nudge()

    def _drop_session(self) -> None:
        self._claimed.clear()
        SHARDS_HELD.set(0)
        if self._session is not None:
            self._session.terminate()
            self._session = None

    async def close(self) -> None:
        """End the session, and with it the claims."""
        if self._session is not None:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                async with asyncio.timeout(self._settings.command_seconds):
                    await self._session.close()
            self._drop_session()


@asynccontextmanager
async def open_outbox(postgres: Postgres, settings: PostgresSettings) -> AsyncIterator[PostgresOutbox]:
    """The claims begin with the first `pending()` and end here."""
    outbox = PostgresOutbox(postgres, settings)
    try:
        yield outbox
    finally:
        await outbox.close()


def _record(row: asyncpg.Record) -> OutboxRecord:
    headers = json.loads(row["headers"])
    event = Event(
        id=row["event_id"],
        type=headers["type"],
        source=headers["source"],
        subject=str(row["aggregate_id"]),
        sequence=row["version"],
        time=datetime.fromisoformat(headers["time"]),
        key=row["key"].decode(),
        data=row["payload"],
        traceparent=headers["traceparent"],
    )
    return OutboxRecord((row["shard"], row["id"]), row["topic"], event)
