"""Counting in Redis, for all gateways together.

One script call is under way at a time, and whoever comes meanwhile shares the next: a round trip each would be the
most expensive thing the gateway does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from shop_common.redis import REDIS_TRANSIENT
from shop_gateway.rate_limit.leases import Leases
from shop_gateway.rate_limit.policy import Policy, Verdict, microseconds

SCRIPT: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local told = {}
for i, key in ipairs(KEYS) do
    local first = (i - 1) * 5
    local interval, limit = tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
    local back, needed, wished = tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5])
    local known = math.max(tonumber(redis.call('GET', key) or 0), now)
    local full_at = math.max(known - back * interval, now)
    local free = math.max(math.floor((now + limit - full_at) / interval), 0)
    local counted = math.min(needed, free)
    local leased = math.min(wished, math.floor((free - counted) / 10))
    full_at = full_at + (counted + leased) * interval
    if full_at ~= known then
        redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
    end
    told[#told + 1] = counted
    told[#told + 1] = leased
    told[#told + 1] = full_at - now
end
return told
"""
"""KEYS: a client each. ARGV, five for each: µs for one request to come back and of the whole quota, requests given
back, requests that wait, requests wished for as a lease, of which it gives a tenth of what is left at most. Redis's
clock is everyone's.

Returns three for each: requests that pass, requests leased, µs until the quota is whole again.
"""

_PROBE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 1.0
_BATCH: Final = 256

_logger = logging.getLogger(__name__)


class RunScript(Protocol):
    """A registered Redis script."""

    def __call__(self, keys: list[str], args: list[int]) -> Awaitable[Any]: ...


class _Ask:
    """What the script's next run does for one client."""

    __slots__ = ("ahead", "back", "client", "policy", "waiting")

    def __init__(self, policy: Policy, client: str) -> None:
        self.policy = policy
        self.client = client
        self.ahead = False
        """A lease runs low."""
        self.back = 0
        self.waiting: list[asyncio.Future[Verdict | None]] = []


class SharedCounts:
    def __init__(self, leases: Leases, script: RunScript, key_prefix: str, seconds: float) -> None:
        self._leases = leases
        self._script = script
        self._prefix = key_prefix
        self._seconds = seconds
        self._asks: dict[str, _Ask] = {}
        self._asking: asyncio.Task[None] | None = None
        self._away = False
        self._ask_again = 0.0

    @property
    def is_away(self) -> bool:
        """Nothing is asked while this is so; once a second it is not, to find out whether Redis is back."""
        return self._away and time.monotonic() < self._ask_again

    async def take(self, policy: Policy, client: str) -> Verdict | None:
        """What the script says of one request more; None without Redis."""
        if self._away:  # this one finds out
            self._ask_again = time.monotonic() + _PROBE_SECONDS
        told: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        self._ask(policy, client).waiting.append(told)
        return await told

    def renew(self, client: str) -> None:
        """Lease more of the default policy with the next call."""
        if not self._away:
            self._ask(self._leases.policy, client).ahead = True

    def give_back(self, policy: Policy, client: str, requests: int) -> None:
        """With the next call. Redis away, they are lost, and come back with time."""
        if not self._away:
            self._ask(policy, client).back += requests

    async def close(self) -> None:
        """Give back what is left, if Redis takes it at once."""
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=_CLOSE_SECONDS)
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _ask(self, policy: Policy, client: str) -> _Ask:
        key = client if policy is self._leases.policy else f"{policy.name}:{client}"
        ask = self._asks.get(key)
        if ask is None:
            ask = self._asks[key] = _Ask(policy, client)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        return ask

    async def _ask_for_all(self) -> None:
        batch: list[_Ask] = []
        try:
            while self._asks:
                keys = list(self._asks)[:_BATCH]
                batch = [self._asks.pop(key) for key in keys]
                told = await self._call(keys, batch)
                if told is None:
                    break
                for place, ask in enumerate(batch):
                    self._tell(ask, *told[3 * place : 3 * place + 3])
        finally:  # whoever still waits is counted here: nobody waits twice for a Redis that is away
            unanswered, self._asks, self._asking = [*batch, *self._asks.values()], {}, None
            for ask in unanswered:
                for waiting in ask.waiting:
                    if not waiting.done():
                        waiting.set_result(None)

    async def _call(self, keys: list[str], batch: list[_Ask]) -> list[int] | None:
        args = []
        for ask in batch:
            back, needed, wished = ask.back, len(ask.waiting), 0
            if (needed or ask.ahead) and ask.policy is self._leases.policy:
                unused, wished = self._leases.renew(ask.client, needed, microseconds())
                back += unused
            args += [ask.policy.interval, ask.policy.limit, back, needed, wished]
        try:
            async with asyncio.timeout(self._seconds):
                told: list[int] = await self._script([self._prefix + key for key in keys], args)
        except REDIS_TRANSIENT as error:
            if not self._away:
                _logger.warning("rate limits are counted per process: no Redis", extra={"error": type(error).__name__})
            self._away, self._ask_again = True, time.monotonic() + _PROBE_SECONDS
            return None
        if self._away:
            self._away = False
            _logger.warning("rate limits are counted in Redis again")
        return told

    def _tell(self, ask: _Ask, counted: int, leased: int, debt: int) -> None:
        policy = ask.policy
        if (counted or ask.ahead) and policy is self._leases.policy:
            self._leases.grant(ask.client, counted, leased, debt, microseconds())
        for place, waiting in enumerate(ask.waiting):
            allowed = place < counted
            charged_later = (counted - 1 - place + leased) * policy.interval if allowed else 0
            if not waiting.done():  # its request may be gone
                waiting.set_result(policy.verdict(ask.client, "redis", debt - charged_later, allowed=allowed))
