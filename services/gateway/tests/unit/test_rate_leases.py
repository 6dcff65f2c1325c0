"""Leases follow demand, tell the truth, and never let more through than was charged."""

import asyncio
import random

import pytest

from shop_gateway.rate_limit import leases as module
from shop_gateway.rate_limit.leases import Leases
from shop_gateway.rate_limit.limiter import RateLimiter
from shop_gateway.rate_limit.policy import Policy
from shop_gateway.settings import QuotaSettings, RateLimitSettings

SECOND = 1_000_000
POLICY = Policy("default", QuotaSettings(requests=1000, window_seconds=1000))


def ask(leases: Leases, now: int, needed: int = 1, client: str = "a") -> int:
    """Ask a Redis that gives whatever is wished; how much that was."""
    _, wished = leases.renew(client, needed, now)
    leases.grant(client, needed, wished, (needed + wished) * SECOND, now)
    return wished


def use(leases: Leases, now: int, client: str = "a") -> int:
    """Count in the lease until it has no more."""
    used = 0
    while leases.take(client, now) is not None:
        used += 1
    return used


def grown() -> Leases:
    """With a lease of 31, beside the request that waited for it."""
    leases = Leases(POLICY)
    for _ in range(5):
        ask(leases, now=0)
        use(leases, now=0)
    assert ask(leases, now=0) == 31
    return leases


def test_who_asks_rarely_is_charged_for_what_it_asks() -> None:
    leases = Leases(POLICY)
    assert [ask(leases, second * SECOND) for second in range(5)] == [0] * 5


def test_who_asks_often_gets_twice_as_much_each_time() -> None:
    leases = Leases(POLICY)
    taken = []
    for _ in range(5):
        taken.append(1 + ask(leases, now=0))
        assert use(leases, now=0) == taken[-1] - 1
    assert taken == [1, 2, 4, 8, 16]


def test_many_at_once_are_no_reason_for_a_lease() -> None:
    leases = Leases(POLICY)
    assert (ask(leases, 0, needed=1), ask(leases, 0, needed=50)) == (0, 0)


def test_the_next_second_begins_with_what_this_one_used() -> None:
    leases = grown()
    for _ in range(9):
        leases.take("a", now=0)
    assert leases.renew("a", 1, now=SECOND) == (22, 9), "10 were used: the one that asks, and 9 more"
    leases.grant("a", 1, 9, 10 * SECOND, now=SECOND)
    assert use(leases, now=SECOND) == 9, "what is given back is not here any more"


def test_more_is_asked_for_once_half_is_used_and_only_once() -> None:
    leases = grown()
    low = []
    for number in range(1, 32):
        assert leases.take("a", 0) is not None
        if leases.runs_low("a", 0):
            low.append(number)
            assert leases.renew("a", 0, now=0) == (0, 48), "to have twice as many as the lease was for"
    assert low == [15]


def test_a_lease_that_is_soon_over_is_followed_by_twice_what_was_used() -> None:
    leases = grown()
    for _ in range(3):
        leases.take("a", 0)
    assert not leases.runs_low("a", SECOND // 2)
    assert leases.runs_low("a", 4 * SECOND // 5)
    assert leases.renew("a", 0, now=4 * SECOND // 5) == (20, 0), "4 were used: 8 stay"
    leases.grant("a", 0, 0, 12 * SECOND, now=4 * SECOND // 5)
    assert use(leases, now=3 * SECOND // 2) == 8


def test_a_small_lease_is_waited_for() -> None:
    leases = Leases(POLICY)
    for _ in range(3):
        ask(leases, now=0)
        while leases.take("a", 0) is not None:
            assert not leases.runs_low("a", 0)


def test_a_lease_that_has_ended_is_not_counted_in() -> None:
    leases = Leases(POLICY)
    for _ in range(3):
        use(leases, 0)
        ask(leases, 0)
    assert leases.take("a", SECOND - 1) is not None
    assert leases.take("a", SECOND) is None
    assert not leases.give_back("a", SECOND)
    assert leases.end(SECOND - 1) == []
    assert leases.end(SECOND) == [("a", 2)]
    assert leases.end(SECOND) == []


def test_what_is_given_back_is_kept_for_the_next() -> None:
    leases = Leases(POLICY)
    ask(leases, 0)
    assert leases.give_back("a", 0)
    assert leases.take("a", 0) == SECOND, "as if it were the first"
    assert not leases.give_back("b", 0)
    assert [leases.give_back("a", 0) for _ in range(101)] == [True] * 100 + [False], "a tenth of the quota"
    assert ask(leases, 0, needed=300) == ask(leases, 0) == 0, "nor is more taken"


def test_who_comes_when_all_places_are_taken_is_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 2)
    leases = Leases(POLICY)
    for client in ("a", "b", "c", "a", "b", "c"):
        ask(leases, 0, client=client)
    assert (use(leases, 0, "a"), use(leases, 0, "b"), use(leases, 0, "c")) == (1, 1, 0)


class Model:
    """Redis as the script has it, with the clock that all share, and several gateways in front of it."""

    def __init__(self, gateways: int, requests: int, window_seconds: int) -> None:
        self.now = 1_000_000_000
        self._full_at: dict[str, int] = {}
        settings = RateLimitSettings(requests=requests, window_seconds=window_seconds)
        self.gateways = [RateLimiter(settings, self) for _ in range(gateways)]

    async def __call__(self, keys: list[str], args: list[int]) -> list[int]:
        told = []
        for place, key in enumerate(keys):
            interval, limit, back, needed, wished = args[5 * place : 5 * place + 5]
            full_at = max(self._full_at.get(key, 0) - back * interval, self.now)
            free = (self.now + limit - full_at) // interval
            counted = min(needed, free)
            leased = min(wished, (free - counted) // 10)
            self._full_at[key] = full_at + (counted + leased) * interval
            told += [counted, leased, self._full_at[key] - self.now]
        await asyncio.sleep(0)
        return told


@pytest.mark.parametrize("requests", [100, 400])
@pytest.mark.parametrize("seed", range(20))
async def test_over_any_stretch_no_more_passes_than_the_quota_and_what_was_leased(
    seed: int, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = random.Random(seed)  # noqa: S311 - to be repeatable
    model = Model(gateways=3, requests=requests, window_seconds=requests // 10)
    monkeypatch.setattr("time.monotonic_ns", lambda: model.now * 1000)
    passed: list[int] = []
    unused: list[tuple[int, int]] = [(model.now, 0)]
    for _ in range(1500):
        gateway = numbers.choice(model.gateways)
        for verdict in await asyncio.gather(*(gateway.take("a") for _ in range(numbers.choice((1, 1, 3))))):
            if verdict.allowed and numbers.random() < 0.1:
                gateway.give_back(verdict)
            elif verdict.allowed:
                passed.append(model.now)
        model.now += int(numbers.expovariate(1 / numbers.choice((1_000, 20_000, 300_000))))
        if numbers.random() < 0.3:
            for each in model.gateways:
                each.sweep(model.now)
        held = sum(lease.left for each in model.gateways for lease in each._leases._held.values())
        unused.append((model.now, held))
    for begin, held in unused[::50]:
        for length in (0.1, 1, 3, 10, 100):
            end = begin + int(length * SECOND)
            count = sum(begin <= at < end for at in passed)
            assert count <= requests + length * 10 + held + 1
    assert len(passed) > requests, "or nothing was tried"


async def test_who_asks_without_a_pause_never_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(1, 10_000, 600)
    monkeypatch.setattr("time.monotonic_ns", lambda: model.now * 1000)
    [gateway] = model.gateways
    sources = []
    for _ in range(3000):
        sources.append((await gateway.take("a")).source)
        await asyncio.sleep(0)
        model.now += 3_000
    assert sources.count("redis") < 10
    assert set(sources[100:]) == {"leased"}


async def test_what_is_left_is_told_as_if_each_request_were_counted_in_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    leasing, counting = (Model(1, 1000, 600) for _ in range(2))
    monkeypatch.setattr("time.monotonic_ns", lambda: leasing.now * 1000)
    monkeypatch.setattr(counting.gateways[0]._leases, "renew", lambda *_: (0, 0))
    sources = set()
    for number in range(300):
        leased, counted = [await model.gateways[0].take("a") for model in (leasing, counting)]
        sources.add(leased.source)
        assert counted.source == "redis"
        assert (leased.remaining, leased.wait_seconds) == (counted.remaining, counted.wait_seconds), number
        leasing.now += 7_000
        counting.now += 7_000
    assert sources == {"redis", "leased"}
