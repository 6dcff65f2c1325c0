"""What one call teaches of its route."""

import pytest
from prometheus_client import REGISTRY

from shop_gateway.errors import CircuitOpen, UpstreamBusy
from shop_gateway.upstreams.guard import NO_LESSON, Guard, Lesson, learn

WELL = Lesson(failed=False, overloaded=False)


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 401, 404, 409, 422, 429, 499])
def test_a_clients_mistake_is_no_failure(status: int) -> None:
    assert learn(status, 0.8, 0.7) == WELL


@pytest.mark.parametrize(
    ("status", "lesson"),
    [
        (500, Lesson(failed=True, overloaded=None)),
        (502, Lesson(failed=True, overloaded=None)),
        (504, Lesson(failed=True, overloaded=True)),
    ],
)
def test_an_upstreams_is(status: int, lesson: Lesson) -> None:
    assert learn(status, 0.8, 0.1) == lesson


def test_a_deadline_that_a_client_made_short_says_nothing() -> None:
    assert learn(504, 0.49, 0.49) is NO_LESSON
    assert learn(504, 0.5, 0.5) != NO_LESSON
    assert learn(500, 0.49, 0.49) != NO_LESSON


def test_one_that_refuses_promptly_is_asked_less_and_not_left_alone() -> None:
    """Left alone, it would have nothing to do for a while, and then too much again."""
    assert learn(503, 5, 1.9) == Lesson(failed=None, overloaded=True)
    assert learn(503, 5, 2.0) == Lesson(failed=True, overloaded=True)


def _gauge(name: str, route: str) -> float | None:
    labels = {"upstream": "users", "method": "GET", "route": route}
    return REGISTRY.get_sample_value(f"shop_gateway_{name}", labels)


def test_an_open_circuit_is_503_with_a_time_and_seen_in_the_metrics() -> None:
    guard = Guard("users", "GET", "/open", 100)
    assert _gauge("breaker_state", "/open") == 0
    for _ in range(20):
        guard.leave(guard.enter(optional=False), Lesson(failed=True, overloaded=None))
    with pytest.raises(CircuitOpen) as refused:
        guard.enter(optional=False)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    assert _gauge("breaker_state", "/open") == 2
    labels = {"upstream": "users", "route": "/open", "reason": "breaker"}
    assert REGISTRY.get_sample_value("shop_gateway_upstream_spared_total", labels) == 1


def test_a_full_route_is_503_and_takes_no_place_in_the_other_count() -> None:
    guard = Guard("users", "GET", "/full", 2)
    tickets = [guard.enter(optional=False) for _ in range(10)]
    with pytest.raises(UpstreamBusy) as refused:
        guard.enter(optional=False)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    for ticket in tickets:
        guard.leave(ticket, WELL)
    for _ in range(10):
        guard.leave(guard.enter(optional=False), Lesson(failed=None, overloaded=True))
    assert _gauge("concurrency_limit", "/full") == 4
