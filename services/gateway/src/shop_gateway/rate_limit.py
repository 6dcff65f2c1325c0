"""How much one client may ask: GCRA (ATM Forum TM 4.0) in Redis, or in this process while Redis is away.

A client may spend its whole quota at once; it comes back evenly, one request every window / quota. All there is to
keep is one moment per client: when it will have its whole quota again. One script call is under way at a time, and
whoever comes meanwhile shares the next: a round trip each would be the most expensive thing the gateway does.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from prometheus_client import Counter

from shop_common.redis import REDIS_TRANSIENT
from shop_gateway.settings import RateLimitSettings

RATE_DECISIONS = Counter("shop_gateway_rate_decisions_total", "Requests counted", ["source", "decision"])

SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local limit = tonumber(ARGV[1])
local debts = {}
for i, key in ipairs(KEYS) do
    local cost = tonumber(ARGV[i + 1])
    local full_at = math.max(tonumber(redis.call('GET', key) or 0), now)
    if full_at + cost - now <= limit then
        full_at = math.max(full_at + cost, now)
        redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
        debts[i] = full_at - now
    else
        debts[i] = now - full_at
    end
end
return debts
"""
"""KEYS: a client each, repeated ones too. ARGV: µs of the whole quota, then of each client's request, negative to give
one back. Redis's clock is everyone's.

Returns the µs until each client's quota is whole again, negative where the request was refused.
"""

_PROBE_SECONDS = 1.0
_LOCAL_CLIENTS = 100_000
_BATCH = 256
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


class _Waiting(NamedTuple):
    """A request that waits for the script's next run."""

    key: str
    cost: int
    told: asyncio.Future[int | None]


class RateLimiter:
    """Counts requests per client over all gateways; while Redis is away, over this process."""

    def __init__(self, settings: RateLimitSettings, script: RunScript) -> None:
        self._script = script
        self._redis_seconds = settings.redis_seconds
        self._prefix = settings.key_prefix
        self._interval = settings.window_seconds * _MICROSECONDS // settings.requests
        self._limit = self._interval * settings.requests
        self._waiting: list[_Waiting] = []
        self._asking: asyncio.Task[None] | None = None
        self._local: OrderedDict[str, int] = OrderedDict()
        self._away = False
        self._ask_again = 0.0
        self.policy = f'"default";q={settings.requests};w={settings.window_seconds}'
        """The `RateLimit-Policy` field."""

    async def take(self, client: str) -> Verdict:
        """Count one more request of this client, unless its quota is spent. Never raises for Redis's sake."""
        source, debt = await self._count(client, self._interval)
        allowed, debt = debt > 0, abs(debt)
        RATE_DECISIONS.labels(source, "allowed" if allowed else "refused").inc()
        remaining = (self._limit - debt) // self._interval
        wait = debt - (self._limit - (remaining + 1) * self._interval)
        return Verdict(allowed, remaining, -(-wait // _MICROSECONDS))

    async def give_back(self, client: str) -> None:
        """Undo one `take`."""
        await self._count(client, -self._interval)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _may_probe(self) -> bool:
        """While Redis is away, one request a second finds out whether it is back."""
        if time.monotonic() < self._ask_again:
            return False
        self._ask_again = time.monotonic() + _PROBE_SECONDS
        return True

    async def _count(self, client: str, cost: int) -> tuple[str, int]:
        """Where it was counted, and the client's debt."""
        debt = None
        if not self._away or self._may_probe():
            debt = await self._in_redis(client, cost)
        return ("local", self._in_process(client, cost)) if debt is None else ("redis", debt)

    async def _in_redis(self, client: str, cost: int) -> int | None:
        """What the script says of this client; None without Redis."""
        told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(self._prefix + client, cost, told))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        return await told

    async def _ask_for_all(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                debts = await self._call(batch)
                if debts is None:
                    break
                for waiting, debt in zip(batch, debts, strict=True):
                    if not waiting.told.done():  # its request may be gone
                        waiting.told.set_result(debt)
        finally:  # whoever still waits is counted here: nobody waits twice for a Redis that is away
            unanswered, self._waiting, self._asking = [*batch, *self._waiting], [], None
            for waiting in unanswered:
                if not waiting.told.done():
                    waiting.told.set_result(None)

    async def _call(self, batch: list[_Waiting]) -> list[int] | None:
        keys, costs = [waiting.key for waiting in batch], [waiting.cost for waiting in batch]
        try:
            async with asyncio.timeout(self._redis_seconds):
                debts: list[int] = await self._script(keys, [self._limit, *costs])
        except REDIS_TRANSIENT as error:
            if not self._away:
                _logger.warning("rate limits are counted per process: no Redis", extra={"error": type(error).__name__})
            self._away, self._ask_again = True, time.monotonic() + _PROBE_SECONDS
            return None
        if self._away:
            self._away = False
            _logger.warning("rate limits are counted in Redis again")
        return debts

    def _in_process(self, client: str, cost: int) -> int:
        """As the script does it."""
        now = time.monotonic_ns() // 1000
        full_at = max(self._local.get(client, 0), now)
        if full_at + cost - now > self._limit:
            return now - full_at
        full_at = max(full_at + cost, now)
        self._local[client] = full_at
        self._local.move_to_end(client)
        if len(self._local) > _LOCAL_CLIENTS:
            self._local.popitem(last=False)
        return full_at - now


@asynccontextmanager
async def open_rate_limiter(settings: RateLimitSettings, script: RunScript) -> AsyncIterator[RateLimiter]:
    """`script` is SCRIPT, registered with Redis."""
    limiter = RateLimiter(settings, script)
    try:
        yield limiter
    finally:
        await limiter.close()
