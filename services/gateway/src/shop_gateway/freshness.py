"""What keeps the gateway's memory true: every record of both topics, and the gateway's own writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Counter

from shop_gateway.cache import SectionCache
from shop_gateway.changes import PROJECTION, Change, RecentChanges, find_change
from shop_gateway.consistency import Written
from shop_gateway.revocations import Revocations
from shop_gateway.settings import CacheSettings
from shop_gateway.shared_cache import SharedCache
from shop_gateway.streams import Streams

CHANGES = Counter("shop_gateway_changes_total", "Records heard", ["topic"])
_OF_USERS: Final = frozenset({"user"})
_OF_ORDERS: Final = frozenset({"orders"})
_OF_STATISTICS: Final = frozenset({"stats"})


@dataclass(frozen=True, slots=True)
class Levels:
    """Both levels of the cache, and for how long what is in them may be answered."""

    memory: SectionCache
    shared: SharedCache
    settings: CacheSettings
    is_told: Callable[[], bool]
    """Whether every change until just now has been heard of."""

    @property
    def fresh_seconds(self) -> float:
        return self.settings.proven_seconds if self.is_told() else self.settings.fresh_seconds


class Freshness:
    """Hears of changes: first the shared cache is cleared, then memory, then who listens is told.

    In the other order a reader could fill memory from the shared cache with what has just been cleared from it.
    """

    def __init__(
        self,
        levels: Levels,
        recent: RecentChanges,
        revocations: Revocations,
        streams: Streams,
    ) -> None:
        self._memory = levels.memory
        self._shared = levels.shared
        self._recent = recent
        self._revocations = revocations
        self._streams = streams

    async def on_begin(self) -> None:
        """Whatever changed before the first record is not known."""
        await self._shared.begin()
        self._recent.clear()
        self._memory.clear()
        self._streams.publish_unknown()

    async def on_records(self, records: Sequence[Any]) -> None:
        changes = [change for record in records if (change := find_change(record)) is not None]
        for change in changes:
            CHANGES.labels(change.topic).inc()
            self._recent.add(change)
            if change.deactivated:
                self._revocations.add(change.user_id)
        if not changes:
            return
        await self._shared.tell({change.user_id for change in changes})
        for change in changes:
            self._invalidate(change)
            self._streams.publish(change)

    async def on_write(self, written: Written) -> None:
        """A write that was passed on has made this version: of an order, or of the user."""
        await self._shared.tell({written.user_id})
        sections = _OF_USERS if written.aggregate_id == written.user_id else _OF_ORDERS
        self._memory.invalidate(*written, sections)

    def _invalidate(self, change: Change) -> None:
        if change.is_order:
            self._memory.invalidate(change.user_id, change.aggregate_id, change.version, _OF_ORDERS)
            self._memory.invalidate(change.user_id, PROJECTION, change.offset + 1, _OF_STATISTICS)
        else:
            self._memory.invalidate(change.user_id, change.aggregate_id, change.version, _OF_USERS)
