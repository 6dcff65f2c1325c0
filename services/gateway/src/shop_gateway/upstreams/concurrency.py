"""How many calls a route may have under way: additive increase, multiplicative decrease, as TCP finds its share.

A call that is refused for overload, or not answered in time, lowers the limit by a tenth; those that go well while
it is in use raise it by one per round. What is optional is refused first: it leaves room below the limit, and never
takes all connections, which other routes share.
"""

from typing import Final

_LEAST: Final = 4.0
_DECREASE: Final = 0.9
_CALLS_PER_CONNECTION: Final = 5
"""At most, those that wait for a connection included."""
_OPTIONAL_SHARE: Final = 0.8


class ConcurrencyLimit:
    """Ask `try_enter` before a call, and tell `leave` how it went with the ticket it gave."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._most = float(connections * _CALLS_PER_CONNECTION)
        self.limit = self._most
        self._optional_limit = connections * _OPTIONAL_SHARE
        self.under_way = 0
        self._round = 0

    def try_enter(self, *, optional: bool) -> int | None:
        """A ticket for one call, or None: it would be one too many."""
        if self.under_way >= (self._optional_limit if optional else self.limit):
            return None
        self.under_way += 1
        return self._round

    def leave(self, ticket: int, *, overloaded: bool | None) -> None:
        """None: nothing was learned. Calls begun before the last decrease do not decrease it again."""
        busy = self.under_way * 2 >= self.limit
        self.under_way -= 1
        if overloaded and ticket == self._round:
            self._round += 1
            self._become(max(_LEAST, self.limit * _DECREASE))
        elif overloaded is False and busy:
            self._become(min(self._most, self.limit + 1 / self.limit))

    def _become(self, limit: float) -> None:
        self.limit = limit
        self._optional_limit = min(limit, self._connections) * _OPTIONAL_SHARE
