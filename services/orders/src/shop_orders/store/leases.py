"""Who relays which orders: leases on shards, so that several workers do not send the same events all the time.

Nothing here is needed to be right. A relay that goes on after its lease has run out, or whose clock is wrong, sends
what another one sends too: duplicates of the same events, each aggregate's in order, which every consumer drops.
"""

import asyncio
import logging
import secrets
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from pymongo.errors import DuplicateKeyError, PyMongoError

from shop_common.mongo import Database
from shop_common.outbox import SHARDS_HELD

SHARDS: Final = 16
COLLECTION: Final = "outbox_leases"
"""A document per shard that was ever held: `{_id: shard, owner, until}`."""
LEASE: Final = timedelta(seconds=6)
_RENEW_SECONDS: Final = LEASE.total_seconds() / 3
_RELEASE_SECONDS: Final = 5.0
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

_logger = logging.getLogger(__name__)


def shard_of(order_id: str) -> int:
    return zlib.crc32(UUID(order_id).bytes) % SHARDS


class ShardLeases:
    """Of one relay. First come, first served: one that joins gets what nobody holds, and more when others end."""

    def __init__(self, database: Database) -> None:
        self._leases = database[COLLECTION]
        self._owner = secrets.token_hex(8)
        self._held: list[int] = []
        self._renew_at = 0.0

    async def held(self) -> Sequence[int]:
        """The shards of this relay, after taking what is free. A relay that has all only asks when it must renew."""
        is_due = time.monotonic() >= self._renew_at
        if is_due and self._held:
            await self._leases.update_many(
                {"_id": {"$in": self._held}, "owner": self._owner}, {"$set": {"until": datetime.now(UTC) + LEASE}}
            )
        if is_due or len(self._held) < SHARDS:
            before, self._held = self._held, await self._look_and_take()
            if self._held != before:
                SHARDS_HELD.set(len(self._held))
                _logger.info("outbox shards leased", extra={"shards": self._held})
        if is_due:
            self._renew_at = time.monotonic() + _RENEW_SECONDS
        return self._held

    async def _look_and_take(self) -> list[int]:
        now = datetime.now(UTC)
        owners = {
            lease["_id"]: lease["owner"]
            for lease in await self._leases.find({"_id": {"$in": list(range(SHARDS))}}).to_list(SHARDS)
            if lease["until"] > now
        }
        return [
            shard
            for shard in range(SHARDS)
            if (owners[shard] == self._owner if shard in owners else await self._take(shard, now))
        ]

    async def _take(self, shard: int, now: datetime) -> bool:
        """One atomic write. It finds a lease that has run out, or none; a duplicate means that another was first."""
        try:
            await self._leases.update_one(
                {"_id": shard, "until": {"$lte": now}},
                {"$set": {"owner": self._owner, "until": now + LEASE}},
                upsert=True,
            )
        except DuplicateKeyError:
            return False
        return True

    async def release(self) -> None:
        """Let others have them now; where that fails, they wait for the leases to run out."""
        mine, self._held = self._held, []
        SHARDS_HELD.set(0)
        if not mine:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._leases.update_many(
                    {"_id": {"$in": mine}, "owner": self._owner}, {"$set": {"until": _LONG_AGO}}
                )
        except (PyMongoError, TimeoutError) as error:
            _logger.warning("outbox shards not released", extra={"error": type(error).__name__})
