"""A circuit breaker (Nygard, Release It!): what keeps failing is left alone for a while, then tried with a few calls.

One for each route of an upstream, since one broken route says nothing of the others: a dashboard whose statistics
fail must not lose its profile for it.

What is late has failed, too, but while some calls are in time, fewer at once is what helps, and not none: that is the
concurrency limit's to find.
"""

import math
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Final

_WINDOW_SECONDS: Final = 10
_ENOUGH_CALLS: Final = 20
_FAILURE_RATIO: Final = 0.5
_LATE_RATIO: Final = 0.9
"""Of failures, where those that were no more than late count, too."""
_OPEN_SECONDS: Final = 5.0
_PROBES: Final = 3


class State(IntEnum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Ask `try_enter` before a call, and tell `leave` how it went with the ticket it gave."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.state = State.CLOSED
        self._tickets = 0
        self._open_until = 0.0
        self._entered = 0
        self._passed = 0
        self._window = _Window()

    @property
    def retry_after(self) -> int:
        """Whole seconds until it is worth asking again, at least 1."""
        return max(1, math.ceil(self._open_until - self._clock()))

    def try_enter(self) -> int | None:
        """A ticket for one call, or None: spare the upstream."""
        if self.state is State.OPEN and self._clock() >= self._open_until:
            self._become(State.HALF_OPEN)
        if self.state is State.OPEN or (self.state is State.HALF_OPEN and self._entered >= _PROBES):
            return None
        self._entered += 1
        return self._tickets

    def leave(self, ticket: int, *, failed: bool | None, late: bool = False) -> None:
        """None: nothing was learned of the upstream. A call begun in an earlier state changes nothing."""
        if ticket != self._tickets:
            return
        if failed is None:
            self._entered -= 1
        elif self.state is State.CLOSED:
            self._window.add(self._clock(), failed=failed, late=late)
            if failed and self._window.fails_too_often():
                self._become(State.OPEN)
        elif failed:
            self._become(State.OPEN)
        else:
            self._passed += 1
            if self._passed == _PROBES:
                self._become(State.CLOSED)

    def _become(self, state: State) -> None:
        self.state = state
        self._tickets += 1
        self._entered = self._passed = 0
        self._window = _Window()
        if state is State.OPEN:
            self._open_until = self._clock() + _OPEN_SECONDS


class _Window:
    """Calls, failures, and those that were no more than late, of the last ten seconds, by the second."""

    def __init__(self) -> None:
        self._seconds: dict[int, tuple[int, int, int]] = {}

    def add(self, now: float, *, failed: bool, late: bool) -> None:
        second = int(now)
        if second not in self._seconds:
            for old in [each for each in self._seconds if each <= second - _WINDOW_SECONDS]:
                del self._seconds[old]
        calls, failures, lates = self._seconds.get(second, (0, 0, 0))
        self._seconds[second] = calls + 1, failures + failed, lates + late

    def fails_too_often(self) -> bool:
        calls, failures, lates = map(sum, zip(*self._seconds.values(), strict=True))
        if calls < _ENOUGH_CALLS:
            return False
        return failures - lates >= _FAILURE_RATIO * calls or failures >= _LATE_RATIO * calls
