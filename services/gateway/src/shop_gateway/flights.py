"""Single-flight: one question for all who ask the same meanwhile, given up when none of them waits any more."""

import asyncio
from collections.abc import Hashable, MutableMapping
from typing import Generic, TypeVar

from shop_common.callbacks import Begin

T = TypeVar("T")


class Flight(Generic[T]):
    """Under way in `flights` until it has an answer. Each `join` is to be followed by one `leave`.

    Without a key it is shared with nobody: not to be found in `flights`, and joined once.
    """

    __slots__ = ("_answer", "_flights", "_key", "_question", "_waiting", "ends")

    def __init__(
        self,
        begin: Begin[T],
        key: Hashable | None,
        flights: MutableMapping[Hashable, "Flight[T]"],
        ends: float,
    ) -> None:
        self.ends = ends
        """When the question is given up, on the monotonic clock."""
        self._key = key
        self._flights = flights
        self._waiting = 0
        self._answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if key is not None:
            flights[key] = self
        self._question = begin(self._land)

    def join(self) -> asyncio.Future[T]:
        """Its answer; cancelled, the others still get theirs."""
        self._waiting += 1
        return self._answer if self._key is None else asyncio.shield(self._answer)

    def leave(self) -> None:
        self._waiting -= 1
        if self._waiting:
            return
        self._forget()
        if self._answer.cancel() or self._answer.cancelled():
            self._question.cancel()
        else:
            self._answer.exception()  # which nobody may have waited for to the end

    def _land(self, answer: T | Exception) -> None:
        self._forget()
        if self._answer.done():
            return
        if isinstance(answer, Exception):
            self._answer.set_exception(answer)
        else:
            self._answer.set_result(answer)

    def _forget(self) -> None:
        if self._key is not None and self._flights.get(self._key) is self:
            del self._flights[self._key]
