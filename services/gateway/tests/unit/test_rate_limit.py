"""The limiter without Redis: it counts in the process, says so once, and goes back; and what it asks of the script."""

import asyncio
import logging
import math

import pytest
from prometheus_client import REGISTRY

from shop_gateway.rate_limit import local, shared
from shop_gateway.rate_limit.limiter import RateLimiter, open_rate_limiter
from shop_gateway.settings import QuotaSettings, RateLimitSettings

STRICT = QuotaSettings(requests=3, window_seconds=3600)


class Redis:
    """Stands for the registered script: lets all pass and gives what is wished for, or refuses the connection."""

    def __init__(self) -> None:
        self.up = True
        self.calls: list[list[tuple[str, int, int, int]]] = []
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, keys: list[str], args: list[int]) -> list[int]:
        asks = list(zip(keys, args[2::5], args[3::5], args[4::5], strict=True))
        self.calls.append(asks)
        self.asked.set()
        await asyncio.sleep(0)
        await self.answers.wait()
        if not self.up:
            raise ConnectionRefusedError
        told = []
        for (_, _, needed, wished), interval in zip(asks, args[::5], strict=True):
            told += [needed, wished, (needed + wished) * interval]
        return told


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000_000)


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def away(redis: Redis) -> Redis:
    redis.up = False
    return redis


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic_ns", clock)
    return clock


def limiter_of(redis: Redis, requests: int = 10, window_seconds: int = 3600) -> RateLimiter:
    return RateLimiter(
        RateLimitSettings(requests=requests, window_seconds=window_seconds, login=STRICT, key_prefix=""), redis
    )


async def test_exactly_the_quota_passes_in_one_process(away: Redis) -> None:
    limiter = limiter_of(away)
    verdicts = await asyncio.gather(*(limiter.take("a") for _ in range(50)))
    assert sum(verdict.allowed for verdict in verdicts) == 10
    assert sorted(verdict.remaining for verdict in verdicts if verdict.allowed) == list(range(10))
    assert all(verdict.wait_seconds == 360 for verdict in verdicts), "a request comes back every 3600 s / 10"
    assert (await limiter.take("b")).allowed, "another client has a quota of its own"
    strict = [await limiter.take("a", "login") for _ in range(4)]
    assert [(verdict.allowed, verdict.remaining) for verdict in strict] == [(True, 2), (True, 1), (True, 0), (False, 0)]


async def test_those_who_come_while_redis_is_asked_share_the_next_call(redis: Redis) -> None:
    redis.answers.clear()
    limiter = limiter_of(redis)
    first = asyncio.create_task(limiter.take("a"))
    await redis.asked.wait()
    rest = [asyncio.create_task(limiter.take(client)) for client in ("b", "c", "d", "d")]
    await asyncio.sleep(0)
    rest[0].cancel()
    redis.answers.set()
    verdicts = await asyncio.gather(first, *rest[1:])
    assert [verdict.remaining for verdict in verdicts] == [9, 9, 9, 8]
    assert redis.calls == [[("a", 0, 1, 0)], [("b", 0, 1, 0), ("c", 0, 1, 0), ("d", 0, 2, 0)]]


async def test_a_crowd_is_asked_for_in_calls_of_bounded_length(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_BATCH", 3)
    limiter = limiter_of(redis)
    verdicts = await asyncio.gather(*(limiter.take(str(number)) for number in range(8)))
    assert all(verdict.allowed for verdict in verdicts)
    assert [len(call) for call in redis.calls] == [3, 3, 2]


async def test_closing_lets_go_of_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_CLOSE_SECONDS", 0)
    asked = asyncio.Event()

    async def never(keys: list[str], args: list[int]) -> list[int]:
        asked.set()
        await asyncio.Event().wait()
        return []

    async with open_rate_limiter(RateLimitSettings(redis_seconds=60), never) as limiter:
        waiting = asyncio.create_task(limiter.take("a"))
        await asked.wait()
    assert (await waiting).allowed


async def test_the_quota_comes_back_evenly(away: Redis, clock: Clock) -> None:
    limiter = limiter_of(away, requests=10, window_seconds=60)
    assert [(await limiter.take("a")).allowed for _ in range(11)] == [True] * 10 + [False]
    clock.forward(5.999)
    assert not (await limiter.take("a")).allowed
    clock.forward(0.001)
    assert [(await limiter.take("a")).allowed for _ in range(2)] == [True, False]
    clock.forward(60)
    assert (await limiter.take("a")).remaining == 9


async def test_an_outage_is_one_log_line_and_one_probe_at_a_time(away: Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "shop_gateway.rate_limit")
    limiter = limiter_of(away, requests=1000)
    await asyncio.gather(*(limiter.take("a") for _ in range(20)))
    await asyncio.gather(*(limiter.take("a") for _ in range(20)))
    assert len(away.calls) == 1, "that one failed for all who waited; nobody asked again"
    verdict = limiter.try_take("a")
    assert verdict is not None, "nobody has to wait either"
    assert (verdict.source, verdict.remaining) == ("local", 959)
    limiter._shared._ask_again = -math.inf
    assert limiter.try_take("a") is None, "somebody has to ask"
    await asyncio.gather(*(limiter.take("a") for _ in range(20)))
    assert len(away.calls) == 2
    assert [record.message for record in caplog.records] == ["rate limits are counted per process: no Redis"]

    away.up = True
    limiter._shared._ask_again = -math.inf
    assert [(await limiter.take("a")).source for _ in range(3)] == ["redis", "redis", "leased"]
    assert len(caplog.records) == 2, "said so once"


@pytest.mark.parametrize("up", [True, False])
async def test_what_is_given_back_can_be_taken_again_and_nothing_more(redis: Redis, up: bool) -> None:  # noqa: FBT001 - a parameter of the test
    redis.up = up
    limiter = limiter_of(redis, requests=2)
    for _ in range(3):
        verdict = await limiter.take("a")
        assert (verdict.allowed, verdict.remaining) == (True, 1)
        assert limiter.give_back(verdict).remaining == 2
    verdict = await limiter.take("a")
    assert limiter.give_back(limiter.give_back(verdict)).remaining == 2, "a quota is never more than whole"
    if not up:
        assert [(await limiter.take("a")).allowed for _ in range(3)] == [True, True, False]


async def test_what_has_no_lease_to_go_to_is_given_back_with_the_next_call(redis: Redis, clock: Clock) -> None:
    limiter = limiter_of(redis)
    strict, usual = await limiter.take("a", "login"), await limiter.take("a")
    clock.forward(1)
    limiter.give_back(strict)
    limiter.give_back(usual)
    await limiter.take("a")
    assert redis.calls[-1] == [("login:a", 1, 0, 0), ("a", 1, 1, 0)]


async def test_while_redis_is_away_newcomers_do_not_rid_anybody_of_a_debt(
    away: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_CLIENTS", 20)
    limiter = limiter_of(away, requests=3)
    assert [(await limiter.take("spent")).allowed for _ in range(4)] == [True, True, True, False]
    for number in range(200):
        assert (await limiter.take(f"newcomer-{number}")).allowed
    assert len(limiter._local._full_at) == 20
    assert not (await limiter.take("spent")).allowed


async def test_a_held_lease_is_counted_without_asking(redis: Redis, clock: Clock) -> None:
    limiter = limiter_of(redis, requests=1000)
    assert limiter.try_take("a") is None
    await limiter.take("a")
    assert limiter.try_take("a") is None, "once is not often"
    await limiter.take("a")
    asked = len(redis.calls)
    verdict = limiter.try_take("a")
    assert verdict is not None
    assert (verdict.source, verdict.allowed, len(redis.calls)) == ("leased", True, asked)
    assert limiter.try_take("a") is None, "it was for one"


async def test_stricter_policies_are_never_leased(redis: Redis) -> None:
    limiter = limiter_of(redis)
    for _ in range(2):
        await limiter.take("a")
    verdicts = [await limiter.take("a", "login") for _ in range(20)]
    assert {verdict.source for verdict in verdicts} == {"redis"}
    assert redis.calls[2:] == [[("login:a", 0, 1, 0)]] * 20


async def test_leases_that_end_are_given_back_in_one_call(redis: Redis, clock: Clock) -> None:
    limiter = limiter_of(redis, requests=1000)
    for _ in range(4):
        await limiter.take("a")
        await limiter.take("b")
    await limiter.take("c")
    asked = len(redis.calls)
    limiter.sweep(clock.now // 1000)
    assert REGISTRY.get_sample_value("shop_gateway_rate_leases") == 2
    clock.forward(1)
    limiter.sweep(clock.now // 1000)
    assert REGISTRY.get_sample_value("shop_gateway_rate_leases") == 0
    await limiter.close()
    assert redis.calls[asked:] == [[("a", 3, 0, 0), ("b", 3, 0, 0)]]


async def test_closing_gives_leases_back(redis: Redis) -> None:
    async with open_rate_limiter(RateLimitSettings(key_prefix=""), redis) as limiter:
        for _ in range(4):
            await limiter.take("a")
    assert redis.calls[-1] == [("a", 3, 0, 0)]


async def test_leases_outlive_redis_and_are_not_given_back_to_nobody(redis: Redis) -> None:
    limiter = limiter_of(redis, requests=1000)
    for client in "aaaabbbb":
        await limiter.take(client)
    redis.up = False
    assert (await limiter.take("c")).source == "local"
    assert [(await limiter.take("a")).source for _ in range(4)] == ["leased"] * 3 + ["local"]
    asked = len(redis.calls)
    limiter.sweep(math.inf)
    await limiter.close()
    assert len(redis.calls) == asked, "what was left of b's is not offered to a Redis that is away"


async def test_every_decision_is_counted(redis: Redis, clock: Clock) -> None:
    def counted(source: str, policy: str, decision: str) -> float:
        labels = {"source": source, "policy": policy, "decision": decision}
        return REGISTRY.get_sample_value("shop_gateway_rate_decisions_total", labels) or 0

    cases = [
        ("redis", "default", "allowed"),
        ("leased", "default", "allowed"),
        ("local", "login", "allowed"),
        ("local", "login", "refused"),
    ]
    before = [counted(*case) for case in cases]
    limiter = limiter_of(redis, requests=1000)
    for _ in range(3):
        await limiter.take("a")
    redis.up = False
    for _ in range(5):
        await limiter.take("a", "login")
    assert [counted(*case) - was for case, was in zip(cases, before, strict=True)] == [2, 1, 3, 2]
