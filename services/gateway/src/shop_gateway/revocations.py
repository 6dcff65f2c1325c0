"""Users whose tokens are worth nothing any more, though their time is not up."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_KEPT_SECONDS: Final = 3600.0
"""Longer than any access token lives."""


class Revocations:
    """Who was deactivated lately; forgotten when none of their tokens can be good."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: OrderedDict[str, float] = OrderedDict()

    def add(self, user_id: str) -> None:
        now = self._clock()
        self._since[user_id] = now
        self._since.move_to_end(user_id)
        while next(iter(self._since.values())) < now - _KEPT_SECONDS:
            self._since.popitem(last=False)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._since
