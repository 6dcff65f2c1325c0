"""Closing what may not answer any more."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

_logger = logging.getLogger(__name__)


async def close_in_thread(close: Callable[[], None], seconds: float, name: str) -> None:
    """Wait so long for a call that blocks, and leave it to itself then.

    In a daemon thread: the loop's executor would be joined at exit, however long a dead server takes.
    """
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            close()
        except Exception:  # there is nothing left to do about it
            _logger.warning("%s failed", name, exc_info=True)
        finally:
            with suppress(RuntimeError):  # the loop did not wait for this
                loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=work, name=name, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await closed.wait()
