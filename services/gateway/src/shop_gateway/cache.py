"""Answers kept in this process, and the leases that keep a slow read from undoing what an event has said.

Whoever misses takes a lease before asking the owner, and fills with it. Each event, and each write passed on, replaces
what leases of its user point at, so an answer read before it is refused. An owner reads its own database, which had
the change before the event was sent, so a lease taken after an event brings at least what the event told.

Nothing is remembered of users nobody asked for. Forgetting a user refuses its leases, so it costs a hit, never truth.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from prometheus_client import Counter

from shop_gateway.models import Answer

FILLS = Counter("shop_gateway_fills_total", "Sections read of their owners, to be kept", ["level", "outcome"])

_KEPT, _REFUSED = FILLS.labels("memory", "kept"), FILLS.labels("memory", "refused")
_SEEN_PER_USER: Final = 64
_USER_BYTES: Final = 1024
_ITEM_BYTES: Final = 512
"""What a user, and an entry or a version seen, take beside the bodies: rounded up."""


class Key(NamedTuple):
    user_id: str
    """Whose data it is: the key of the events that make it stale."""
    section: str


class Entry(NamedTuple):
    answer: Answer
    versions: Mapping[str, int]
    """The aggregates whose version in the answer is known; of others every event makes it stale."""
    as_of: float
    """The clock when the lease was taken: the owner was asked after that."""


@dataclass(slots=True, eq=False)
class CachedUser:
    """All that is kept of one user. Its identity is what leases are compared by, so it ends with the first change."""

    entries: dict[str, Entry] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    """The newest version of each aggregate that an event or a write has told of."""
    whole: Any = None
    """What somebody made of all entries; forgotten with the first of them that changes."""
    flights: dict[Any, Any] = field(default_factory=dict)
    """Questions to owners under way: whoever asks the same before anything changes may wait for their answers."""

    @property
    def size(self) -> int:
        bodies = sum(len(entry.answer.body) for entry in self.entries.values())
        return _USER_BYTES + bodies + _ITEM_BYTES * (len(self.entries) + len(self.seen))


class Lease(NamedTuple):
    """The right to fill; costs nothing when it is never used."""

    key: Key
    user: CachedUser
    taken_at: float


class SectionCache:
    """Bounded by bytes: the users that nobody asked for the longest are forgotten first."""

    def __init__(
        self,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        recent: Callable[[str], Mapping[str, int]] = lambda _: {},
    ) -> None:
        """`recent`: what was told lately of a user nobody had asked for, so that `seen` begins with it."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._recent = recent
        self._users: OrderedDict[str, CachedUser] = OrderedDict()
        self.size = 0
        """Bytes, roughly."""

    def find(self, user_id: str) -> CachedUser | None:
        user = self._users.get(user_id)
        if user is not None:
            self._users.move_to_end(user_id)
        return user

    def look_up(self, key: Key) -> Entry | None:
        user = self.find(key.user_id)
        return None if user is None else user.entries.get(key.section)

    def lease(self, key: Key) -> Lease:
        """To be taken before the owner is asked."""
        user = self._users.get(key.user_id)
        if user is None:
            user = CachedUser(seen=dict(self._recent(key.user_id)))
            self._put(key.user_id, user)
        return Lease(key, user, self._clock())

    def fill(self, lease: Lease, answer: Answer, versions: Mapping[str, int], as_of: float | None = None) -> bool:
        """Keep the answer; False, and nothing kept, where it may be older than what is known here.

        `as_of` where it was not read from the owner just now, but by somebody else at that time of the clock.
        """
        is_kept = self._fill(lease, answer, versions, as_of)
        (_KEPT if is_kept else _REFUSED).inc()
        return is_kept

    def _fill(self, lease: Lease, answer: Answer, versions: Mapping[str, int], as_of: float | None) -> bool:
        key, user = lease.key, lease.user
        if self._users.get(key.user_id) is not user:
            return False
        before = user.entries.get(key.section)
        if as_of is not None and before is not None and before.as_of >= as_of:
            return False
        for aggregate_id, version in versions.items():
            if version < user.seen.get(aggregate_id, 0) or (before and version < before.versions.get(aggregate_id, 0)):
                return False
        user.entries[key.section] = Entry(answer, versions, lease.taken_at if as_of is None else as_of)
        user.whole = None
        self._users.move_to_end(key.user_id)
        self.size += len(answer.body) - len(before.answer.body) if before else len(answer.body) + _ITEM_BYTES
        if self.size > self._max_bytes:
            self._make_room()
        return True

    def invalidate(
        self, user_id: str, aggregate_id: str, version: int, sections: Collection[str] | None = None
    ) -> None:
        """Some aggregate of this user, which shows in these sections or in all, has this version now.

        Told again, or of an older one, nothing changes.
        """
        user = self._users.get(user_id)
        if user is None or user.seen.get(aggregate_id, 0) >= version:
            return
        self._drop(user_id)
        if len(user.seen) < _SEEN_PER_USER:  # else forget the user
            kept = {
                name: entry
                for name, entry in user.entries.items()
                if (sections is not None and name not in sections) or entry.versions.get(aggregate_id, 0) >= version
            }
            self._put(user_id, CachedUser(kept, user.seen | {aggregate_id: version}))

    def forget(self, user_id: str) -> None:
        """Something of this user has changed, and it is not known what."""
        self._drop(user_id)

    def clear(self) -> None:
        """Anything may have changed."""
        self._users.clear()
        self.size = 0

    def _drop(self, user_id: str) -> None:
        if user := self._users.pop(user_id, None):
            self.size -= user.size

    def _put(self, user_id: str, user: CachedUser) -> None:
        self._drop(user_id)
        self._users[user_id] = user
        self.size += user.size
        self._make_room()

    def _make_room(self) -> None:
        while self.size > self._max_bytes:
            self._drop(next(iter(self._users)))
