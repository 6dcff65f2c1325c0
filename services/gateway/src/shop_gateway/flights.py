"""Single-flight: one question for all who ask the same meanwhile, given up when none of them waits any more."""

import asyncio
from collections.abc import Coroutine, Hashable, MutableMapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """Under way in `flights` until it has an answer. Each `join` is to be followed by one `leave`.

    Without a key it is shared with nobody: not to be found in `flights`, and joined once.
    """

    __slots__ = ("_flights", "_key", "_task", "_waiting", "ends")

    def __init__(
        self,
        question: Coroutine[Any, Any, T],
        key: Hashable | None,
        flights: MutableMapping[Hashable, "Flight[T]"],
        ends: float,
    ) -> None:
        self.ends = ends
        """When the question is given up, on the monotonic clock."""
        self._key = key
        self._flights = flights
        self._waiting = 0
        self._task = asyncio.create_task(question)
        if key is not None:
            self._task.add_done_callback(self._land)
            flights[key] = self

    def join(self) -> asyncio.Future[T]:
        """Its answer; cancelled, the others still get theirs."""
        self._waiting += 1
        return self._task if self._key is None else asyncio.shield(self._task)

    def leave(self) -> None:
        self._waiting -= 1
        if not self._waiting and not self._task.done():
            self._land()
            self._task.cancel()

    def _land(self, _: object = None) -> None:
        if self._flights.get(self._key) is self:
            del self._flights[self._key]
