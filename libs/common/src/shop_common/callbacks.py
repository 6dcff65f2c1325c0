"""What is answered by a callback, for those who wait for it."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Cancellable(Protocol):
    """What is under way."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


Begin = Callable[[Callable[[T | Exception], None]], Cancellable]
"""Begins something, and has its result, or what went wrong, given to what it is called with."""


async def result_of(begin: Begin[T]) -> T:
    """Its result; what went wrong is raised, and who stops waiting cancels it."""
    settled: asyncio.Future[T | Exception] = asyncio.get_running_loop().create_future()

    def settle(result: T | Exception) -> None:
        if not settled.done():
            settled.set_result(result)

    under_way = begin(settle)
    try:
        result = await settled
    finally:
        under_way.cancel()
    if isinstance(result, Exception):
        raise result
    return result
