"""A service as the gateway sees it: one bounded pool each, and rules for when it is asked, asked again, or spared."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from shop_common.callbacks import result_of
from shop_common.connections import open_pool
from shop_common.http import open_http_client
from shop_common.http1 import HttpCall
from shop_common.metrics import from_zero, times_of
from shop_common.tokens import FetchKeys, fetch_keys_from
from shop_common.tracing import begin_span, current_traceparent, format_traceparent, mark_failed
from shop_gateway.errors import UpstreamBusy, UpstreamError, UpstreamUnreachable
from shop_gateway.models import Answer, Call, Owner
from shop_gateway.settings import UpstreamSettings
from shop_gateway.upstreams.exchange import Done, Exchange
from shop_gateway.upstreams.guard import NO_LESSON, REFUSED_HERE, Guard, Lesson, learn
from shop_gateway.upstreams.retries import RetryBudget, pause_before_retry

UPSTREAM_SECONDS = Histogram(
    "shop_gateway_upstream_seconds",
    "Seconds one call to an upstream took, its answer read",
    ["upstream", "route", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1, 2.5, 5),
)
UPSTREAM_RETRIES = Counter("shop_gateway_upstream_retries_total", "Calls made a second time", ["upstream"])
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_WORTH_A_RETRY = frozenset({502, 503})


class Upstream:
    """Calls one service."""

    def __init__(self, name: Owner, exchange: Exchange, settings: UpstreamSettings) -> None:
        self.name = name
        self.exchange = exchange
        self.retries = RetryBudget()
        self._total_seconds = settings.total_seconds
        self._connections = settings.max_connections
        self._routes: dict[tuple[str, str], _Route] = {}
        from_zero(UPSTREAM_RETRIES, name)

    def begin(self, call: Call, seconds: float, done: Done, *, optional: bool = False) -> "Attempts":
        """`done` is given any answer that is JSON or empty, whatever its status; UpstreamError if there is none.

        That may be before this returns. `seconds` is the time left for it, a second try included. What is `optional`
        is refused first under load.
        """
        ends = time.monotonic() + min(seconds, self._total_seconds)
        self.retries.earn()
        attempts = Attempts(self, call, ends, done, optional=optional)
        attempts.begin()
        return attempts

    async def call(self, call: Call, seconds: float) -> Answer:
        """Any answer that is JSON or empty, whatever its status; UpstreamError (502, 503, 504) if there is none."""
        return await result_of(lambda done: self.begin(call, seconds, done))

    def route(self, call: Call) -> "_Route":
        """The call's."""
        route = self._routes.get((call.method, call.route))
        if route is None:
            guard = Guard(self.name, call.method, call.route, self._connections)
            route = self._routes[call.method, call.route] = _Route(self.name, call.method, call.route, guard)
        return route


class _Route:
    """What is the same for all calls of one route."""

    def __init__(self, owner: Owner, method: str, path: str, guard: Guard) -> None:
        self.guard = guard
        self.span_name = f"gateway → {owner} {method} {path}"
        self.span_attributes = {"peer.service": owner, "http.request.method": method, "url.template": path}


class Attempts:
    """A call under way: tried, and at most once more."""

    __slots__ = (
        "_call",
        "_context",
        "_done",
        "_ends",
        "_exchange",
        "_is_last",
        "_optional",
        "_pause",
        "_route",
        "_seconds",
        "_span",
        "_started",
        "_ticket",
        "_upstream",
    )

    def __init__(self, upstream: Upstream, call: Call, ends: float, done: Done, *, optional: bool) -> None:
        self._upstream = upstream
        self._call = call
        self._ends = ends
        self._done: Done | None = done
        self._optional = optional
        self._route = upstream.route(call)
        self._context = copy_context()
        self._is_last = not call.repeatable
        self._exchange: HttpCall | None = None
        self._pause: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        try:
            self._ticket = self._route.guard.enter(optional=self._optional)
        except UpstreamError as refusal:
            self._finish(refusal)
            return
        self._started = time.monotonic()
        self._seconds = max(0.0, self._ends - self._started)
        self._span = begin_span(self._route.span_name, SpanKind.CLIENT, self._route.span_attributes)
        traceparent = format_traceparent(self._span.get_span_context()) if self._span else current_traceparent()
        self._exchange = self._upstream.exchange.begin(self._call, self._seconds, traceparent, self._on_result)

    def cancel(self) -> None:
        """Give it up; nobody is told."""
        if self._done is None:
            return
        self._done = None
        if self._pause is not None:
            self._pause.cancel()
        if self._exchange is not None:
            self._exchange.cancel()
            self._leave(NO_LESSON, "cancelled", time.monotonic() - self._started)
            if self._span is not None:
                mark_failed(self._span, None)
                self._span.end()

    def _on_result(self, result: Answer | UpstreamError) -> None:
        took = time.monotonic() - self._started
        recorded, status = self._span, result.status
        if isinstance(result, UpstreamError):
            is_busy = isinstance(result, UpstreamBusy)
            self._leave(REFUSED_HERE if is_busy else learn(status, self._seconds, took), result.code, took)
            if recorded is not None:
                mark_failed(recorded, result)
            is_worth_more = isinstance(result, UpstreamUnreachable)
        else:
            self._leave(learn(status, self._seconds, took), _outcome(status), took)
            if recorded is not None:
                recorded.set_attribute("http.response.status_code", status)
            is_worth_more = status in _WORTH_A_RETRY
        if recorded is not None:
            recorded.end()
        if not (is_worth_more and self._try_again()):
            self._finish(result)

    def _leave(self, lesson: Lesson, outcome: str, took: float) -> None:
        self._exchange = None
        self._route.guard.leave(self._ticket, lesson)
        times_of(UPSTREAM_SECONDS, self._upstream.name, self._call.route, outcome).observe(took)

    def _try_again(self) -> bool:
        """After a pause, if there is time for that and the budget allows it."""
        pause = None if self._is_last else pause_before_retry(self._ends - time.monotonic())
        if pause is None or not self._upstream.retries.try_spend():
            return False
        self._is_last = True
        UPSTREAM_RETRIES.labels(self._upstream.name).inc()
        self._pause = asyncio.get_running_loop().call_later(pause, self.begin, context=self._context)
        return True

    def _finish(self, result: Answer | UpstreamError) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(result)


def _outcome(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "server_error"
    return "client_error" if status >= _CLIENT_ERROR else "ok"


@asynccontextmanager
async def open_upstream(name: Owner, url: str, settings: UpstreamSettings) -> AsyncIterator[Upstream]:
    """A pool of its own, so that a slow service cannot use up the other's connections."""
    async with open_pool(url, settings, settings.max_answer_bytes) as pool:
        yield Upstream(name, Exchange(name, pool), settings)


@asynccontextmanager
async def open_key_source(jwks_url: str, settings: UpstreamSettings) -> AsyncIterator[FetchKeys]:
    """Where the keys that check tokens are read."""
    async with open_http_client(settings) as client:
        yield fetch_keys_from(client, jwks_url)
