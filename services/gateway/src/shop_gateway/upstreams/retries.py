"""When a call is made a second time: rarely enough that retries never become the load that keeps an upstream down."""

import random
from typing import Final

_SHARE: Final = 0.2
_SAVED_AT_MOST: Final = 10.0
_PAUSE_SECONDS: Final = 0.025
_WORTHWHILE_SECONDS: Final = 0.1


class RetryBudget:
    """Each call earns a fifth of a retry; ten can be saved up."""

    def __init__(self) -> None:
        self._saved = _SAVED_AT_MOST

    def earn(self) -> None:
        self._saved = min(_SAVED_AT_MOST, self._saved + _SHARE)

    def try_spend(self) -> bool:
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


def pause_before_retry(seconds_left: float) -> float | None:
    """Seconds to wait, with full jitter (Brooker, Exponential Backoff And Jitter); None: too late for another try."""
    pause = random.uniform(0, _PAUSE_SECONDS)  # noqa: S311 - spreads load, keeps no secret
    return pause if seconds_left - pause >= _WORTHWHILE_SECONDS else None
