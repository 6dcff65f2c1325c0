"""Counts each request where that is cheapest: in a lease, in Redis, or in this process while Redis is away."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from shop_common.metrics import from_zero
from shop_gateway.rate_limit.leases import Leases
from shop_gateway.rate_limit.local import LocalCounts
from shop_gateway.rate_limit.policy import Policy, PolicyName, Verdict, microseconds
from shop_gateway.rate_limit.shared import RunScript, SharedCounts
from shop_gateway.settings import RateLimitSettings

RATE_DECISIONS = Counter("shop_gateway_rate_decisions_total", "Requests counted", ["source", "policy", "decision"])
RATE_LEASES = Gauge("shop_gateway_rate_leases", "Clients with requests leased", multiprocess_mode="livesum")

_SWEEP_SECONDS: Final = 0.5


class RateLimiter:
    """A client is `user:` or `address:` and which. Only the default policy is leased."""

    def __init__(self, settings: RateLimitSettings, script: RunScript) -> None:
        self._default = Policy("default", settings)
        self._policies: dict[PolicyName, Policy] = {
            "default": self._default,
            "login": Policy("login", settings.login),
            "registration": Policy("registration", settings.registration),
        }
        self._leases = Leases(self._default)
        self._shared = SharedCounts(self._leases, script, settings.key_prefix, settings.redis_seconds)
        self._local = LocalCounts()
        self._counted_in_lease = RATE_DECISIONS.labels("leased", "default", "allowed")
        from_zero(RATE_DECISIONS, "local", "default", "allowed")

    def try_take(self, client: str) -> Verdict | None:
        """Count one more request under the default policy, without waiting; None where `take` has to ask Redis."""
        now = microseconds()
        debt = self._leases.take(client, now)
        if debt is not None:
            self._counted_in_lease.inc()
            if self._leases.runs_low(client, now):
                self._shared.renew(client)
            return self._default.verdict(client, "leased", debt)
        return self._count_here(self._default, client) if self._shared.is_away else None

    async def take(self, client: str, name: PolicyName = "default") -> Verdict:
        """Count one more request of this client, unless its quota is spent. Never raises for Redis's sake."""
        if name == "default" and (verdict := self.try_take(client)) is not None:
            return verdict
        policy = self._policies[name]
        if not self._shared.is_away and (verdict := await self._shared.take(policy, client)) is not None:
            return _noted(verdict)
        return self._count_here(policy, client)

    def give_back(self, verdict: Verdict) -> Verdict:
        """Undo one `take` that was allowed; what is left since."""
        policy, client = verdict.policy, verdict.client
        if verdict.source == "local":
            self._local.give_back(policy, client)
        elif policy is not self._default or not self._leases.give_back(client, microseconds()):
            self._shared.give_back(policy, client, 1)
        return verdict._replace(remaining=min(verdict.remaining + 1, policy.requests))

    def sweep(self, now: float) -> None:
        """Give back what has not been used of the leases that have ended by now."""
        for client, unused in self._leases.end(now):
            self._shared.give_back(self._default, client, unused)
        RATE_LEASES.set(self._leases.holders)

    async def keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep(microseconds())

    async def close(self) -> None:
        """Give everything back."""
        self.sweep(math.inf)
        await self._shared.close()

    def _count_here(self, policy: Policy, client: str) -> Verdict:
        allowed, debt = self._local.take(policy, client, microseconds())
        return _noted(policy.verdict(client, "local", debt, allowed=allowed))


def _noted(verdict: Verdict) -> Verdict:
    decision = "allowed" if verdict.allowed else "refused"
    RATE_DECISIONS.labels(verdict.source, verdict.policy.name, decision).inc()
    return verdict


@asynccontextmanager
async def open_rate_limiter(settings: RateLimitSettings, script: RunScript) -> AsyncIterator[RateLimiter]:
    """`script` is SCRIPT, registered with Redis."""
    limiter = RateLimiter(settings, script)
    sweeping = asyncio.create_task(limiter.keep_sweeping())
    try:
        yield limiter
    finally:
        sweeping.cancel()
        await asyncio.wait([sweeping])
        await limiter.close()
