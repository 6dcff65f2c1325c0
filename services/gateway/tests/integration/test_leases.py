"""Leases over real Redis: several gateways together let the quota through, no more and nothing less for long."""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from shop_common.redis import open_redis
from shop_common.settings import RedisSettings
from shop_gateway.rate_limit import leases
from shop_gateway.rate_limit.limiter import RateLimiter
from shop_gateway.rate_limit.shared import SCRIPT
from shop_gateway.settings import RateLimitSettings

QUOTA = 500
"""Of a day, so that nothing of it comes back while a test runs."""
OpenLimiter = Callable[[], Awaitable[RateLimiter]]


@pytest.fixture(autouse=True)
def _lasting_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end when a test says so."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 600)


@pytest.fixture
async def open_limiter(redis_url: str) -> AsyncIterator[OpenLimiter]:
    """One more process' worth, with connections of its own."""
    prefix = f"{uuid.uuid4()}:"
    settings = RateLimitSettings(requests=QUOTA, window_seconds=86_400, key_prefix=prefix, redis_seconds=60)
    async with AsyncExitStack() as stack:

        async def start() -> RateLimiter:
            patient = RedisSettings(url=SecretStr(redis_url), acquire_seconds=60, command_seconds=60)
            redis = await stack.enter_async_context(open_redis(patient))
            return RateLimiter(settings, redis.register_script(SCRIPT))

        yield start


def held_by(limiter: RateLimiter) -> int:
    return sum(lease.left for lease in limiter._leases._held.values())


async def hammer(limiter: RateLimiter, sources: set[str] | None = None) -> int:
    """Ask until refused; how many passed."""
    passed = 0
    while (verdict := await limiter.take("user:a")).allowed:
        passed += 1
        if sources is not None:
            sources.add(verdict.source)
    assert verdict.remaining == 0
    return passed


async def test_two_gateways_that_hammer_let_exactly_the_quota_through(open_limiter: OpenLimiter) -> None:
    limiters = [await open_limiter() for _ in range(2)]
    sources: set[str] = set()
    passed = await asyncio.gather(*(hammer(limiter, sources) for limiter in limiters for _ in range(4)))
    assert sources == {"leased", "redis"}
    assert sum(passed) == QUOTA, "whoever is refused has used its lease up before"


async def test_refused_early_is_only_what_another_gateway_holds_and_until_it_gives_back(
    open_limiter: OpenLimiter,
) -> None:
    holding, asking, late = [await open_limiter() for _ in range(3)]
    began = 0
    while held_by(holding) < QUOTA // 20:
        assert (await holding.take("user:a")).allowed
        began += 1
    held = held_by(holding)
    assert held <= QUOTA // 10
    passed = await hammer(asking)
    assert began + held + passed == QUOTA, "charged is what passed, or is held"
    assert not (await late.take("user:a")).allowed
    await holding.close()
    assert await hammer(late) == held


async def test_no_lease_is_more_than_a_tenth_of_what_is_left(open_limiter: OpenLimiter) -> None:
    limiter = await open_limiter()
    asked, largest = 0, 0
    while (verdict := await limiter.take("user:a")).allowed:
        if verdict.source == "redis":
            asked += 1
            assert held_by(limiter) <= verdict.remaining // 10 + 1
            largest = max(largest, held_by(limiter))
    assert largest >= QUOTA // 20
    assert asked < QUOTA // 4, "the rest was counted in memory"


async def test_a_lease_that_has_ended_is_given_back_by_who_comes_again(
    open_limiter: OpenLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0)
    limiter, other = await open_limiter(), await open_limiter()
    for left in reversed(range(QUOTA - 40, QUOTA)):
        assert (await limiter.take("user:a")).remaining == left
    limiter.sweep(math.inf)
    await limiter.close()
    assert (await other.take("user:a")).remaining == QUOTA - 41
