"""The limiter without Redis: it counts in the process, says so once, and goes back."""

import asyncio
import logging
import math

import pytest

from shop_gateway import rate_limit
from shop_gateway.rate_limit import RateLimiter, open_rate_limiter
from shop_gateway.settings import RateLimitSettings


class Redis:
    """Stands for the registered script: answers as to a client's first request, or refuses the connection."""

    def __init__(self) -> None:
        self.up = False
        self.calls = 0
        self.asked = asyncio.Event()

    async def __call__(self, keys: list[str], args: list[int]) -> list[int]:
        self.calls += 1
        self.asked.set()
        await asyncio.sleep(0)
        if not self.up:
            raise ConnectionRefusedError
        _, *costs = args
        assert len(costs) == len(keys)
        return costs


@pytest.fixture
def redis() -> Redis:
    return Redis()


def limiter_of(redis: Redis, requests: int = 10, window_seconds: int = 3600) -> RateLimiter:
    return RateLimiter(RateLimitSettings(requests=requests, window_seconds=window_seconds), redis)


async def test_exactly_the_quota_passes_in_one_process(redis: Redis) -> None:
    limiter = limiter_of(redis)
    verdicts = await asyncio.gather(*(limiter.take("a") for _ in range(50)))
    assert sum(verdict.allowed for verdict in verdicts) == 10
    assert sorted(verdict.remaining for verdict in verdicts if verdict.allowed) == list(range(10))
    assert all(verdict.wait_seconds == 360 for verdict in verdicts), "a request comes back every 3600 s / 10"
    assert (await limiter.take("b")).allowed, "another client has a quota of its own"


async def test_those_who_come_while_redis_is_asked_share_the_next_call(redis: Redis) -> None:
    redis.up = True
    limiter = limiter_of(redis)
    first = asyncio.create_task(limiter.take("a"))
    await redis.asked.wait()
    rest = [asyncio.create_task(limiter.take(client)) for client in ("b", "c", "d")]
    rest[0].cancel()
    verdicts = await asyncio.gather(first, *rest[1:])
    assert ([verdict.remaining for verdict in verdicts], redis.calls) == ([9, 9, 9], 2)


async def test_closing_lets_go_of_whoever_waits() -> None:
    asked = asyncio.Event()

    async def never(keys: list[str], args: list[int]) -> list[int]:
        asked.set()
        await asyncio.Event().wait()
        return []

    async with open_rate_limiter(RateLimitSettings(redis_seconds=60), never) as limiter:
        waiting = asyncio.create_task(limiter.take("a"))
        await asked.wait()
    assert (await waiting).allowed


async def test_the_quota_comes_back_evenly(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = limiter_of(redis, requests=10, window_seconds=60)
    now = [1_000_000_000_000]
    monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
    assert [(await limiter.take("a")).allowed for _ in range(11)] == [True] * 10 + [False]
    now[0] += 5_999_000_000
    assert not (await limiter.take("a")).allowed
    now[0] += 1_000_000
    assert [(await limiter.take("a")).allowed for _ in range(2)] == [True, False]
    now[0] += 60_000_000_000
    assert (await limiter.take("a")).remaining == 9


async def test_an_outage_is_one_log_line_and_one_probe_at_a_time(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "shop_gateway.rate_limit")
    limiter = limiter_of(redis, requests=1000)
    await asyncio.gather(*(limiter.take("a") for _ in range(20)))
    await asyncio.gather(*(limiter.take("a") for _ in range(20)))
    assert redis.calls == 1, "that one failed for all who waited; nobody asked again"
    limiter._ask_again = -math.inf
    await asyncio.gather(*(limiter.take("a") for _ in range(20)))
    assert redis.calls == 2
    assert [record.message for record in caplog.records] == ["rate limits are counted per process: no Redis"]

    redis.up = True
    limiter._ask_again = -math.inf
    await limiter.take("a")
    verdict = await limiter.take("a")
    assert (verdict.remaining, len(caplog.records)) == (999, 2), "Redis's count again, and said so once"


@pytest.mark.parametrize("up", [True, False])
async def test_what_is_given_back_can_be_taken_again_and_nothing_more(redis: Redis, up: bool) -> None:  # noqa: FBT001 - a parameter of the test
    redis.up = up
    limiter = limiter_of(redis, requests=1)
    for _ in range(3):
        assert (await limiter.take("a")).allowed
        await limiter.give_back("a")
    await limiter.give_back("a")
    assert (await limiter.take("a")).allowed
    if not up:
        assert not (await limiter.take("a")).allowed, "a quota is never more than whole"


async def test_what_is_kept_per_client_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_LOCAL_CLIENTS", 3)
    limiter = limiter_of(redis)
    for client in ("a", "b", "c", "a", "d"):
        await limiter.take(client)
    assert list(limiter._local) == ["c", "a", "d"]
