"""The services behind the gateway: one bounded pool each, every call with a deadline, every failure with a name."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind
from prometheus_client import Histogram
from pyreqwest.client import Client
from pyreqwest.exceptions import (
    ConnectTimeoutError,
    NetworkError,
    PoolTimeoutError,
    RequestError,
    RequestTimeoutError,
)
from pyreqwest.response import Response

from shop_common.context import request_id
from shop_common.http import open_http_client, open_http_pool
from shop_common.problems import PROBLEM_JSON
from shop_common.request import DEADLINE_HEADER, REQUEST_ID_HEADER
from shop_common.tokens import FetchKeys, fetch_keys_from
from shop_common.tracing import current_traceparent, span
from shop_gateway.errors import (
    UpstreamBusy,
    UpstreamDeadline,
    UpstreamError,
    UpstreamMalformed,
    UpstreamUnreachable,
)
from shop_gateway.headers import to_client
from shop_gateway.models import Answer, Call, Owner
from shop_gateway.settings import UpstreamSettings

UPSTREAM_SECONDS = Histogram(
    "shop_gateway_upstream_seconds",
    "Seconds one call to an upstream took, its answer read",
    ["upstream", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1, 2.5, 5),
)
_JSON_TYPES = ("application/json", PROBLEM_JSON)
_TIMER_SECONDS = 0.005
_SERVER_ERROR, _CLIENT_ERROR = 500, 400


class Upstream:
    """Calls one service."""

    def __init__(self, name: Owner, url: str, pool: Client, settings: UpstreamSettings) -> None:
        self.name = name
        self._url = url
        self._origin = urlsplit(url)._replace(path="").geturl()
        self._pool = pool
        self._total_seconds = settings.total_seconds
        self._max_bytes = settings.max_answer_bytes

    async def call(self, call: Call, seconds: float | None) -> Answer:
        """Any answer that is JSON or empty, whatever its status; UpstreamError (502, 503, 504) if there is none.

        `seconds` is the time left for it, connecting included.
        """
        seconds = self._total_seconds if seconds is None else min(seconds, self._total_seconds)
        started = time.perf_counter()
        outcome = "cancelled"
        attributes = {"peer.service": self.name, "http.request.method": call.method, "url.template": call.route}
        try:
            with span(f"gateway → {self.name} {call.method} {call.route}", SpanKind.CLIENT, attributes) as recorded:
                answer = await self._exchange(call, seconds)
                outcome = _outcome(answer.status)
                if recorded is not None:
                    recorded.set_attribute("http.response.status_code", answer.status)
                return answer
        except UpstreamError as error:
            outcome = error.code
            raise
        finally:
            UPSTREAM_SECONDS.labels(self.name, outcome).observe(time.perf_counter() - started)

    async def _exchange(self, call: Call, seconds: float) -> Answer:
        if seconds <= 0:
            raise UpstreamDeadline(f"No time was left to ask {self.name}")
        own = {DEADLINE_HEADER: str(max(1, int(seconds * 1000))), REQUEST_ID_HEADER: request_id()}
        if traceparent := current_traceparent():
            own["traceparent"] = traceparent
        request = self._pool.request(call.method, self._url + call.target).headers({**call.headers, **own})
        if call.body is not None:
            request = request.body_bytes(call.body)
        ends = time.perf_counter() + seconds
        try:
            async with request.timeout(timedelta(seconds=seconds)).build_streamed() as response:
                return await self._answer(response)
        except PoolTimeoutError:
            raise UpstreamBusy(f"No connection to {self.name} is free", headers={"Retry-After": "1"}) from None
        except RequestTimeoutError as error:
            # pyreqwest calls every timeout before the answer's head one of connecting: tell them apart by the clock.
            if isinstance(error, ConnectTimeoutError) and time.perf_counter() < ends - _TIMER_SECONDS:
                raise UpstreamUnreachable(f"{self.name} cannot be reached") from None
            raise UpstreamDeadline(f"{self.name} did not answer in time") from None
        except NetworkError:
            raise UpstreamUnreachable(f"{self.name} cannot be reached") from None
        except (RequestError, ValueError):  # ValueError: a header that is no text
            raise self._malformed("its answer breaks HTTP") from None

    async def _answer(self, response: Response) -> Answer:
        headers = to_client(response.get_header, self._origin)
        declared = response.get_header("content-length")
        if declared is not None and int(declared) > self._max_bytes:
            raise self._malformed("its answer is too large")
        if response.get_header("content-encoding") is not None:
            raise self._malformed("its answer has an encoding that was not asked for")
        body = (await response.bytes()).to_bytes() if declared is not None else await self._chunks(response)
        if body and headers.get("content-type", "").partition(";")[0].strip().lower() not in _JSON_TYPES:
            raise self._malformed("its answer is not JSON")
        return Answer(response.status, headers, body)

    async def _chunks(self, response: Response) -> bytes:
        body = bytearray()
        while (chunk := await response.body_reader.read_chunk()) is not None:
            body += chunk
            if len(body) > self._max_bytes:
                raise self._malformed("its answer is too large")
        return bytes(body)

    def _malformed(self, what: str) -> UpstreamMalformed:
        return UpstreamMalformed(f"{self.name} cannot be understood: {what}")


def _outcome(status: int) -> str:
    if status >= _SERVER_ERROR:
        return "server_error"
    return "client_error" if status >= _CLIENT_ERROR else "ok"


@asynccontextmanager
async def open_upstream(name: Owner, url: str, settings: UpstreamSettings) -> AsyncIterator[Upstream]:
    """A pool of its own, so that a slow service cannot use up the other's connections."""
    async with open_http_pool(settings) as pool:
        yield Upstream(name, url, pool, settings)


@asynccontextmanager
async def open_key_source(jwks_url: str, settings: UpstreamSettings) -> AsyncIterator[FetchKeys]:
    """Where the keys that check tokens are read."""
    async with open_http_pool(settings) as pool, open_http_client(pool) as client:
        yield fetch_keys_from(client, jwks_url)
