"""One route of an upstream: whether it may be asked now, and what each call teaches about that."""

from typing import Final, NamedTuple

from prometheus_client import Counter, Gauge

from shop_common.metrics import from_zero
from shop_gateway.errors import CircuitOpen, UpstreamBusy
from shop_gateway.upstreams.breaker import Breaker
from shop_gateway.upstreams.concurrency import ConcurrencyLimit

UPSTREAM_SPARED = Counter("shop_gateway_upstream_spared_total", "Calls not made", ["upstream", "route", "reason"])
BREAKER_STATE = Gauge(
    "shop_gateway_breaker_state",
    "0 closed, 1 half-open, 2 open",
    ["upstream", "method", "route"],
    multiprocess_mode="livemax",
)
CONCURRENCY_LIMIT = Gauge(
    "shop_gateway_concurrency_limit",
    "Calls one process may have under way",
    ["upstream", "method", "route"],
    multiprocess_mode="livemin",
)

_FAIR_SECONDS: Final = 0.5
"""A deadline shorter than this, which a client may ask for, says nothing of the upstream when it passes."""
_PROMPT_SECONDS: Final = 2.0
"""A 503 within this is an upstream that takes care of itself: it is told to fewer, and to no fewer than it can bear."""
_SERVER_ERROR, _UNAVAILABLE, _TIMEOUT = 500, 503, 504


class Lesson(NamedTuple):
    """What a call says of its route; None where it says nothing."""

    failed: bool | None
    overloaded: bool | None


NO_LESSON: Final = Lesson(None, None)
REFUSED_HERE: Final = Lesson(None, overloaded=True)
_WELL: Final = Lesson(failed=False, overloaded=False)


def learn(status: int, seconds: float, took: float) -> Lesson:
    """From a call that had so many seconds and ended with this status, the gateway's own 502 and 504 included."""
    if status < _SERVER_ERROR:
        return _WELL
    if status == _TIMEOUT and seconds < _FAIR_SECONDS:
        return NO_LESSON
    if status == _UNAVAILABLE and took < _PROMPT_SECONDS:
        return Lesson(failed=None, overloaded=True)
    return Lesson(failed=True, overloaded=True if status in {_UNAVAILABLE, _TIMEOUT} else None)


class Ticket(NamedTuple):
    """The right to one call."""

    limit: int
    breaker: int


class Guard:
    """A circuit breaker and a concurrency limit: `enter` before a call, `leave` after it, whatever came of it."""

    def __init__(self, upstream: str, method: str, route: str, connections: int) -> None:
        self._upstream = upstream
        self._route = route
        self._breaker = Breaker()
        self._limit = ConcurrencyLimit(connections)
        self._breaker_state = BREAKER_STATE.labels(upstream, method, route)
        self._concurrency_limit = CONCURRENCY_LIMIT.labels(upstream, method, route)
        for reason in ("concurrency", "breaker"):
            from_zero(UPSTREAM_SPARED, upstream, route, reason)
        self._show()

    def enter(self, *, optional: bool) -> Ticket:
        """CircuitOpen or UpstreamBusy, both 503 with `Retry-After`, where the route is to be spared."""
        limit = self._limit.try_enter(optional=optional)
        if limit is None:
            UPSTREAM_SPARED.labels(self._upstream, self._route, "concurrency").inc()
            raise UpstreamBusy(f"{self._upstream} has as much to do as it can", headers={"Retry-After": "1"})
        breaker = self._breaker.try_enter()
        if breaker is None:
            self._limit.leave(limit, overloaded=None)
            UPSTREAM_SPARED.labels(self._upstream, self._route, "breaker").inc()
            headers = {"Retry-After": str(self._breaker.retry_after)}
            raise CircuitOpen(f"{self._upstream} has failed too often to be asked right now", headers=headers)
        return Ticket(limit, breaker)

    def leave(self, ticket: Ticket, lesson: Lesson) -> None:
        limit, breaker = self._limit, self._breaker
        limit_before, state_before = limit.limit, breaker.state
        limit.leave(ticket.limit, overloaded=lesson.overloaded)
        breaker.leave(ticket.breaker, failed=lesson.failed, late=lesson.overloaded is True)
        if limit.limit != limit_before or breaker.state is not state_before:
            self._show()

    def _show(self) -> None:
        self._breaker_state.set(self._breaker.state)
        self._concurrency_limit.set(self._limit.limit)
