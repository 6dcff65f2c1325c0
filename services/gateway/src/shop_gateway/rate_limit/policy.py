"""A quota by its name, and what became of one request under it."""

import time
from typing import Final, Literal, NamedTuple

from shop_gateway.settings import QuotaSettings

PolicyName = Literal["default", "login", "registration"]
Source = Literal["leased", "redis", "local"]
MICROSECONDS: Final = 1_000_000


def microseconds() -> int:
    """Of a clock that only goes forward."""
    return time.monotonic_ns() // 1000


class Verdict(NamedTuple):
    policy: "Policy"
    client: str
    source: Source
    """Where the request was counted."""
    allowed: bool
    remaining: int
    """Requests the client could send right now."""
    wait_seconds: int
    """Whole seconds until it can send one more than that."""


class Policy:
    """So many requests in so many seconds; every debt is in µs until the quota is whole."""

    __slots__ = ("field", "interval", "limit", "name", "requests")

    def __init__(self, name: PolicyName, quota: QuotaSettings) -> None:
        self.name = name
        self.requests = quota.requests
        self.interval = quota.window_seconds * MICROSECONDS // quota.requests
        self.limit = self.interval * quota.requests
        self.field = f'"{name}";q={quota.requests};w={quota.window_seconds}'
        """Its member of the `RateLimit-Policy` field."""

    def verdict(self, client: str, source: Source, debt: int, *, allowed: bool = True) -> Verdict:
        remaining = max((self.limit - debt) // self.interval, 0)
        wait = debt - self.limit + (remaining + 1) * self.interval
        return Verdict(self, client, source, allowed, remaining, -(-wait // MICROSECONDS))
