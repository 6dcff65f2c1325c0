"""Answers kept in this process, and the leases that keep a slow read from undoing what an event has said.

Whoever misses takes a lease before asking the owner, and fills with it. Each event, and each write passed on, replaces
what leases of its user point at, so an answer read before it is refused. An owner reads its own database, which had
the change before the event was sent, so a lease taken after an event brings at least what the event told.

Nothing is remembered of users nobody asked for. Forgetting a user refuses its leases, so it costs a hit, never truth.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shop_gateway.models import Answer

_SEEN_PER_USER: Final = 64
_USER_BYTES: Final = 1024
_ITEM_BYTES: Final = 512
"""What a user, and an entry or a version seen, take beside the bodies: rounded up."""


class Key(NamedTuple):
    user_id: str
    """Whose data it is: the key of the events that make it stale."""
    section: str


@dataclass(frozen=True, slots=True)
class Entry:
    answer: Answer
    versions: Mapping[str, int]
    """The aggregates whose version in the answer is known; of others every event makes it stale."""
    as_of: float
    """The clock when the lease was taken: the owner was asked after that."""


@dataclass(slots=True, eq=False)
class _User:
    """Its identity is what leases are compared by."""

    entries: dict[str, Entry] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    """The newest version of each aggregate that an event or a write has told of."""

    @property
    def size(self) -> int:
        bodies = sum(len(entry.answer.body) for entry in self.entries.values())
        return _USER_BYTES + bodies + _ITEM_BYTES * (len(self.entries) + len(self.seen))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fill; costs nothing when it is never used."""

    key: Key
    user: _User
    taken_at: float


class SectionCache:
    """Bounded by bytes: the users that nobody asked for the longest are forgotten first."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._users: OrderedDict[str, _User] = OrderedDict()
        self.size = 0
        """Bytes, roughly."""

    def look_up(self, key: Key) -> Entry | None:
        user = self._users.get(key.user_id)
        if user is None:
            return None
        self._users.move_to_end(key.user_id)
        return user.entries.get(key.section)

    def lease(self, key: Key) -> Lease:
        """To be taken before the owner is asked."""
        user = self._users.get(key.user_id) or _User()
        self._put(key.user_id, user)
        return Lease(key, user, self._clock())

    def fill(self, lease: Lease, answer: Answer, versions: Mapping[str, int]) -> bool:
        """Keep the answer; False, and nothing kept, where it may be older than what is known here."""
        key, user = lease.key, lease.user
        if self._users.get(key.user_id) is not user:
            return False
        before = user.entries.get(key.section)
        for known in (user.seen, before.versions if before else {}):
            if any(version < known.get(aggregate_id, 0) for aggregate_id, version in versions.items()):
                return False
        self._drop(key.user_id)
        user.entries[key.section] = Entry(answer, versions, lease.taken_at)
        self._put(key.user_id, user)
        return True

    def invalidate(self, user_id: str, aggregate_id: str, version: int) -> None:
        """Some aggregate of this user has this version now. Told again, or of an older one, nothing changes."""
        user = self._users.get(user_id)
        if user is None or user.seen.get(aggregate_id, 0) >= version:
            return
        self._drop(user_id)
        if len(user.seen) < _SEEN_PER_USER:  # else forget the user
            kept = {
                name: entry for name, entry in user.entries.items() if entry.versions.get(aggregate_id, 0) >= version
            }
            self._put(user_id, _User(kept, user.seen | {aggregate_id: version}))

    def _drop(self, user_id: str) -> None:
        if user := self._users.pop(user_id, None):
            self.size -= user.size

    def _put(self, user_id: str, user: _User) -> None:
        self._drop(user_id)
        self._users[user_id] = user
        self.size += user.size
        while self.size > self._max_bytes:
            self._drop(next(iter(self._users)))
