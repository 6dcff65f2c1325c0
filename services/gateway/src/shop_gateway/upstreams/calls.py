"""A service as the gateway sees it: one bounded pool each, and rules for when it is asked, asked again, or spared."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from shop_common.http import open_http_client, open_http_pool
from shop_common.metrics import from_zero, times_of
from shop_common.tokens import FetchKeys, fetch_keys_from
from shop_common.tracing import span
from shop_gateway.errors import UpstreamBusy, UpstreamError, UpstreamUnreachable
from shop_gateway.models import Answer, Call, Owner
from shop_gateway.settings import UpstreamSettings
from shop_gateway.upstreams.exchange import Exchange
from shop_gateway.upstreams.guard import NO_LESSON, REFUSED_HERE, Guard, learn
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
        self._exchange = exchange
        self._total_seconds = settings.total_seconds
        self._connections = settings.max_connections
        self._guards: dict[tuple[str, str], Guard] = {}
        self._retries = RetryBudget()
        from_zero(UPSTREAM_RETRIES, name)

    async def call(self, call: Call, seconds: float, *, optional: bool = False) -> Answer:
        """Any answer that is JSON or empty, whatever its status; UpstreamError (502, 503, 504) if there is none.

        `seconds` is the time left for it, a second try included. What is `optional` is refused first under load.
        """
        ends = time.monotonic() + min(seconds, self._total_seconds)
        self._retries.earn()
        try:
            answer = await self._attempt(call, ends, optional=optional)
            if answer.status not in _WORTH_A_RETRY or not await self._may_retry(call, ends):
                return answer
        except UpstreamUnreachable:
            if not await self._may_retry(call, ends):
                raise
        return await self._attempt(call, ends, optional=optional)

    async def _may_retry(self, call: Call, ends: float) -> bool:
        """Whether the call is to be made once more: then at once, the pause before it is over."""
        pause = pause_before_retry(ends - time.monotonic()) if call.repeatable else None
        if pause is None or not self._retries.try_spend():
            return False
        UPSTREAM_RETRIES.labels(self.name).inc()
        await asyncio.sleep(pause)
        return True

    async def _attempt(self, call: Call, ends: float, *, optional: bool) -> Answer:
        guard = self._guards.get((call.method, call.route))
        if guard is None:
            guard = Guard(self.name, call.method, call.route, self._connections)
            self._guards[call.method, call.route] = guard
        ticket = guard.enter(optional=optional)
        started, lesson = time.monotonic(), NO_LESSON
        seconds = ends - started
        try:
            answer = await self._observed(call, seconds)
            lesson = learn(answer.status, seconds, time.monotonic() - started)
        except UpstreamError as error:
            took = time.monotonic() - started
            lesson = REFUSED_HERE if isinstance(error, UpstreamBusy) else learn(error.status, seconds, took)
            raise
        else:
            return answer
        finally:
            guard.leave(ticket, lesson)

    async def _observed(self, call: Call, seconds: float) -> Answer:
        started = time.perf_counter()
        outcome = "cancelled"
        name, attributes = _described(self.name, call.method, call.route)
        try:
            with span(name, SpanKind.CLIENT, attributes) as recorded:
                answer = await self._exchange.send(call, seconds)
                outcome = _outcome(answer.status)
                if recorded is not None:
                    recorded.set_attribute("http.response.status_code", answer.status)
                return answer
        except UpstreamError as error:
            outcome = error.code
            raise
        finally:
            times_of(UPSTREAM_SECONDS, self.name, call.route, outcome).observe(time.perf_counter() - started)


@lru_cache
def _described(owner: Owner, method: str, route: str) -> tuple[str, Mapping[str, str]]:
    """A call's span: its name and attributes."""
    attributes = {"peer.service": owner, "http.request.method": method, "url.template": route}
    return f"gateway → {owner} {method} {route}", attributes


def _outcome(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "server_error"
    return "client_error" if status >= _CLIENT_ERROR else "ok"


@asynccontextmanager
async def open_upstream(name: Owner, url: str, settings: UpstreamSettings) -> AsyncIterator[Upstream]:
    """A pool of its own, so that a slow service cannot use up the other's connections."""
    async with open_http_pool(settings) as pool:
        yield Upstream(name, Exchange(name, url, pool, settings.max_answer_bytes), settings)


@asynccontextmanager
async def open_key_source(jwks_url: str, settings: UpstreamSettings) -> AsyncIterator[FetchKeys]:
    """Where the keys that check tokens are read."""
    async with open_http_pool(settings) as pool, open_http_client(pool) as client:
        yield fetch_keys_from(client, jwks_url)
