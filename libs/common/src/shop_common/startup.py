"""Commands that are started beside their server, which may not answer yet."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shop_common.errors import StartupError

WAIT_SECONDS = 60.0
_RETRY_SECONDS = 0.5

Result = TypeVar("Result")


async def once_up(
    attempt: Callable[[], Awaitable[Result]],
    transient: tuple[type[Exception], ...],
    wait_seconds: float = WAIT_SECONDS,
) -> Result:
    """Try until it is done, for as long as the server is merely away; what else fails, or fails too long, is raised."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return await attempt()
        except Exception as error:
            cause = error.__cause__ if isinstance(error, StartupError) else error
            if not isinstance(cause, transient) or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_RETRY_SECONDS)
