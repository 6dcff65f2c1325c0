"""Which offset of a partition may be committed: everything below it is done."""

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Pending:
    """One record under way; its identity, not its offset, says which."""

    offset: int
    done: bool = False


class OffsetTracker:
    """Of one partition in one assignment; another assignment gets another tracker, so nothing stale carries over.

    Offsets may have gaps (compaction, transaction markers): contiguous means in the order they were dispatched.
    """

    __slots__ = ("_committed", "_last", "_pending")

    def __init__(self) -> None:
        self._pending: deque[Pending] = deque()
        self._last: int | None = None
        self._committed: int | None = None

    @property
    def position(self) -> int | None:
        """The offset that may be committed: that of the first record not yet done; None before the first record."""
        if self._pending:
            return self._pending[0].offset
        return None if self._last is None else self._last + 1

    def dispatch(self, offset: int) -> Pending:
        if self._last is None or offset <= self._last:
            # Reading starts here. If not for the first time, the log was cut: what was pending is history, and the
            # same offset is another record now.
            self._pending.clear()
            self._committed = offset
        self._last = offset
        entry = Pending(offset)
        self._pending.append(entry)
        return entry

    def complete(self, entry: Pending) -> None:
        entry.done = True
        while self._pending and self._pending[0].done:
            self._pending.popleft()

    def to_commit(self) -> int | None:
        """The position, where it has moved since it was committed or since reading started."""
        return None if self.position == self._committed else self.position

    def committed(self, offset: int) -> None:
        self._committed = offset
