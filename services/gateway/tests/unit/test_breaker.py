"""When a route is left alone, and how it is found well again."""

from dataclasses import dataclass

import pytest

from shop_gateway.upstreams.breaker import Breaker, State


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def state(breaker: Breaker) -> State:
    return breaker.state


def call(breaker: Breaker, *, failed: bool | None, late: bool = False) -> None:
    ticket = breaker.try_enter()
    assert ticket is not None
    breaker.leave(ticket, failed=failed, late=late)


def opened(breaker: Breaker) -> Breaker:
    for _ in range(20):
        call(breaker, failed=True)
    assert state(breaker) == State.OPEN
    return breaker


def test_nineteen_failures_are_too_few_to_tell(breaker: Breaker) -> None:
    for _ in range(19):
        call(breaker, failed=True)
    assert state(breaker) == State.CLOSED


def test_half_of_twenty_open_it(breaker: Breaker) -> None:
    for _ in range(10):
        call(breaker, failed=False)
    for _ in range(9):
        call(breaker, failed=True)
    assert state(breaker) == State.CLOSED
    call(breaker, failed=True)
    assert state(breaker) == State.OPEN
    assert breaker.try_enter() is None


def test_less_than_half_do_not(breaker: Breaker) -> None:
    for _ in range(100):
        call(breaker, failed=False)
        call(breaker, failed=False)
        call(breaker, failed=True)
    assert state(breaker) == State.CLOSED


def test_late_ones_open_it_where_nearly_all_are(breaker: Breaker) -> None:
    for _ in range(4):
        call(breaker, failed=False)
    for _ in range(35):
        call(breaker, failed=True, late=True)
    assert state(breaker) == State.CLOSED
    call(breaker, failed=True)
    assert state(breaker) == State.OPEN


def test_failures_are_forgotten_after_ten_seconds(breaker: Breaker, clock: Clock) -> None:
    for _ in range(19):
        call(breaker, failed=True)
    clock.now += 10
    for _ in range(19):
        call(breaker, failed=True)
    assert state(breaker) == State.CLOSED
    call(breaker, failed=True)
    assert state(breaker) == State.OPEN


def test_what_taught_nothing_does_not_count(breaker: Breaker) -> None:
    for _ in range(100):
        call(breaker, failed=None)
    for _ in range(19):
        call(breaker, failed=True)
    assert state(breaker) == State.CLOSED


def test_it_says_when_to_come_again(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    assert breaker.retry_after == 5
    clock.now += 4.2
    assert (breaker.retry_after, breaker.try_enter()) == (1, None)


def test_three_probes_that_pass_close_it(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 5
    probes = [breaker.try_enter() for _ in range(4)]
    assert state(breaker) == State.HALF_OPEN
    assert probes[:3] == [probes[0]] * 3 != [None] * 3
    assert probes[3] is None, "a fourth has to wait for them"
    for probe in probes[:2]:
        assert probe is not None
        breaker.leave(probe, failed=False)
    assert state(breaker) == State.HALF_OPEN
    assert probes[2] is not None
    breaker.leave(probes[2], failed=False)
    assert state(breaker) == State.CLOSED
    for _ in range(19):
        call(breaker, failed=True)
    assert state(breaker) == State.CLOSED, "it begins with an empty window"


def test_one_probe_that_fails_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 5
    call(breaker, failed=False)
    call(breaker, failed=True)
    assert (breaker.state, breaker.retry_after, breaker.try_enter()) == (State.OPEN, 5, None)


def test_a_probe_that_was_given_up_leaves_its_place_to_another(breaker: Breaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += 5
    for _ in range(10):
        call(breaker, failed=None)
    for _ in range(3):
        call(breaker, failed=False)
    assert state(breaker) == State.CLOSED


def test_calls_from_before_it_opened_say_nothing_of_now(breaker: Breaker, clock: Clock) -> None:
    late = [breaker.try_enter() for _ in range(10)]
    opened(breaker)
    clock.now += 5
    probe = breaker.try_enter()
    for ticket in late:
        assert ticket is not None
        breaker.leave(ticket, failed=True)
    assert state(breaker) == State.HALF_OPEN
    assert probe is not None
    breaker.leave(probe, failed=False)
    call(breaker, failed=False)
    call(breaker, failed=False)
    assert state(breaker) == State.CLOSED
