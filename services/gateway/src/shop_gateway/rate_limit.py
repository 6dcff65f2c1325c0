"""How much one client may ask: GCRA (ATM Forum TM 4.0), one Redis call per request, in this process without Redis.

A client may spend its whole quota at once; it comes back evenly, one request every window / quota. All there is to
keep is one moment per client: when it will have its whole quota again.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any, NamedTuple, Protocol

from prometheus_client import Counter

from shop_common.redis import REDIS_TRANSIENT
from shop_gateway.settings import RateLimitSettings

RATE_DECISIONS = Counter("shop_gateway_rate_decisions_total", "Requests counted", ["source", "decision"])

SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost, limit = ARGV[1] * ARGV[2], tonumber(ARGV[3])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local allowed = full_at + cost - now <= limit
if allowed then
    full_at = full_at + cost
    redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
end
return {allowed and 1 or 0, full_at - now}
"""
"""KEYS: the client's. ARGV: µs per request, requests asked for, µs of the whole quota. Redis's clock is everyone's."""

_PROBE_SECONDS = 1.0
_LOCAL_CLIENTS = 100_000
_MICROSECONDS = 1_000_000

_logger = logging.getLogger(__name__)


class RunScript(Protocol):
    """A registered Redis script."""

    def __call__(self, keys: list[str], args: list[int]) -> Awaitable[Any]: ...


class Verdict(NamedTuple):
    allowed: bool
    remaining: int
    """Requests the client could send right now."""
    wait_seconds: int
    """Whole seconds until it can send one more than that."""


class RateLimiter:
    """Counts requests per client over all gateways; while Redis is away, over this process."""

    def __init__(self, settings: RateLimitSettings, script: RunScript) -> None:
        self._script = script
        self._redis_seconds = settings.redis_seconds
        self._prefix = settings.key_prefix
        self._quota = settings.requests
        self._interval = settings.window_seconds * _MICROSECONDS // settings.requests
        self._limit = self._interval * settings.requests
        self._local: OrderedDict[str, int] = OrderedDict()
        self._away = False
        self._ask_again = 0.0
        self.policy = f'"default";q={settings.requests};w={settings.window_seconds}'
        """The `RateLimit-Policy` field."""

    async def take(self, client: str, requests: int = 1) -> Verdict:
        """Count `requests` more of this client, all or none. Never raises for Redis's sake."""
        found = await self._take_in_redis(client, requests)
        source = "local" if found is None else "redis"
        allowed, debt = found or self._take_here(client, requests)
        RATE_DECISIONS.labels(source, "allowed" if allowed else "refused").inc()
        remaining = (self._limit - debt) // self._interval
        wait = debt - (self._limit - (remaining + 1) * self._interval)
        return Verdict(allowed, remaining, -(-wait // _MICROSECONDS))

    async def _take_in_redis(self, client: str, requests: int) -> tuple[bool, int] | None:
        """Whether it was allowed and how many µs until the quota is whole; None without Redis."""
        if self._away:
            if time.monotonic() < self._ask_again:
                return None
            self._ask_again = time.monotonic() + _PROBE_SECONDS  # one request at a time finds out
        try:
            async with asyncio.timeout(self._redis_seconds):
                allowed, debt = await self._script([self._prefix + client], [self._interval, requests, self._limit])
        except REDIS_TRANSIENT as error:
            if not self._away:
                _logger.warning("rate limits are counted per process: no Redis", extra={"error": type(error).__name__})
            self._away, self._ask_again = True, time.monotonic() + _PROBE_SECONDS
            return None
        if self._away:
            self._away = False
            _logger.warning("rate limits are counted in Redis again")
        return bool(allowed), int(debt)

    def _take_here(self, client: str, requests: int) -> tuple[bool, int]:
        now = time.monotonic_ns() // 1000
        full_at = max(self._local.get(client, 0), now)
        allowed = full_at + requests * self._interval - now <= self._limit
        if allowed:
            full_at += requests * self._interval
            self._local[client] = full_at
            self._local.move_to_end(client)
            if len(self._local) > _LOCAL_CLIENTS:
                self._local.popitem(last=False)
        return allowed, full_at - now
