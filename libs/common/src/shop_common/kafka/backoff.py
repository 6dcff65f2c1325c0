"""How long to wait before the next try: exponential, with full jitter, so that many do not come back at once."""

import asyncio
import random


def full_jitter(attempt: int, base: float, ceiling: float) -> float:
    """Seconds, uniform between 0 and `base` doubled per earlier attempt, at most `ceiling`; attempts count from 0."""
    return random.uniform(0, min(ceiling, base * 2 ** min(attempt, 30)))  # noqa: S311 - spreads load, hides nothing


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Sleep, unless and until `event` is set; returns whether it is."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
