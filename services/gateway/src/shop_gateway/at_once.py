"""The hot path: a dashboard answered where its request arrives, from memory or from its owners.

It does what the middlewares and the route would do, for the case in which they would not wait before that: the token
was verified before, and a lease has requests left. Whatever is unusual about a request is theirs.

Who asks again and again sends the same bytes each time, so they are parsed when they come first.
"""

import re
import time
from collections.abc import Coroutine, Iterable, Mapping
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from shop_common.answers import Reply, header_lines
from shop_common.context import begin_request, new_request_id
from shop_common.heads import read_head
from shop_common.logs import Answered, log_access
from shop_common.metrics import HTTP_REQUESTS, HTTP_SECONDS, count_of, times_of
from shop_common.preconditions import is_unchanged
from shop_common.request import CLIENT_GONE, REQUEST_ID_PATTERN, InProgress, describe, last_resort, request_attributes
from shop_common.tokens import Principal
from shop_common.tracing import begin_entry, current_trace_id, record_entry
from shop_gateway.api import WITHOUT_BODY, gathered
from shop_gateway.compression import LEAST_BYTES, compress, encoded, takes_gzip
from shop_gateway.edge import ALWAYS, limit_fields
from shop_gateway.headers import wants_no_cache
from shop_gateway.models import Ask, Whole
from shop_gateway.rate_limit.policy import Verdict
from shop_gateway.resources import Resources
from shop_gateway.schemas import whole_fields
from shop_gateway.settings import Settings

_ME: Final = "/v1/me/dashboard"
_BY_ID: Final = "/v1/users/{user_id}/dashboard"
_BY_ID_PATH: Final = re.compile(r"/v1/users/([0-9a-f-]{36})/dashboard")
_LINE_BYTES: Final = len("GET /v1/users/ /dashboard ") + 36
_MAX_HEAD_BYTES, _HEADS = 4096, 1024
_READ: Final = {
    name.encode(): name for name in ("authorization", "if-none-match", "accept-encoding", "x-request-id", "traceparent")
}
_UNUSUAL: Final = frozenset(
    {
        b"consistency-token",
        b"content-length",
        b"expect",
        b"origin",
        b"prefer",
        b"transfer-encoding",
        b"upgrade",
        b"x-deadline-ms",
    }
)
AT_ONCE = Counter("shop_gateway_at_once_total", "Dashboards answered where their request arrived", ["source"])
_NOT_MODIFIED: Final = 304
_STATUSES: Final = frozenset(HTTPStatus)
_ADDED: Final = frozenset({"content-length", *(name.decode() for name, _ in ALWAYS)})
_ALWAYS: Final = header_lines(ALWAYS)


class _Asked(NamedTuple):
    """What matters of a request."""

    route: str
    path: str
    user_id: str | None
    """None: the one who asks."""
    credentials: str
    token: str
    if_none_match: str | None
    accept_encoding: str
    live: bool
    """Nothing from memory."""
    request_id: str
    """Empty where the client sent none."""
    traceparent: str | None


class _Began(NamedTuple):
    """When a request arrived: by the performance counter, and in nanoseconds of Unix time."""

    at: float
    at_ns: int


class AtOnce:
    """Called with what has come of each request; None for all but those."""

    def __init__(self, resources: Resources, in_progress: InProgress, settings: Settings) -> None:
        self._resources = resources
        self._in_progress = in_progress
        self._sample_ratio = settings.tracing.recorded_share
        self._seconds = settings.http.deadline_seconds
        self._read = lru_cache(maxsize=_HEADS)(_read)
        self._from_memory, self._from_owners = AT_ONCE.labels("memory"), AT_ONCE.labels("owners")

    def __call__(self, data: bytes) -> Reply | Coroutine[Any, Any, Reply] | None:
        if b"/dashboard " not in data[:_LINE_BYTES] or len(data) > _MAX_HEAD_BYTES:
            return None
        began = _Began(time.perf_counter(), time.time_ns())
        asked = self._read(data)
        principal = self._recall(asked) if asked else None
        if asked is None or principal is None:
            return None
        user_id = asked.user_id or principal.user_id
        dashboards = self._resources.dashboards
        user = None if asked.live else dashboards.find_fresh(user_id)
        if user is None and self._in_progress.is_full:
            return None
        verdict = self._resources.limiter.try_take(f"user:{principal.user_id}")
        if verdict is None or not verdict.allowed:
            return None
        if user is not None:
            return self._answer(asked, dashboards.from_memory(user), verdict, began)
        ask = Ask(user_id, {"authorization": asked.credentials}, time.monotonic(), live=asked.live)
        return self._gather(asked, ask, verdict, began)

    def _recall(self, asked: _Asked) -> Principal | None:
        """Who asks, if they may see what they ask for."""
        principal = self._resources.tokens.recall(asked.token)
        if principal is None or principal.user_id in self._resources.revocations:
            return None
        return principal if asked.user_id is None or principal.may_see(asked.user_id) else None

    def _answer(self, asked: _Asked, whole: Whole, verdict: Verdict, began: _Began) -> Reply:
        status = _NOT_MODIFIED if is_unchanged(asked.if_none_match, whole.etag) else 200
        zipped = takes_gzip(asked.accept_encoding) and len(whole.body) >= LEAST_BYTES
        head, body = _known_answer(whole, status, zipped=zipped)
        request_id = asked.request_id or new_request_id()
        trace_id = record_entry(
            f"GET {asked.route}",
            SpanKind.SERVER,
            asked.traceparent,
            request_attributes("GET", asked.route, status, request_id),
            sample_ratio=self._sample_ratio,
            began_ns=began.at_ns,
        )
        self._from_memory.inc()
        age = time.monotonic() - whole.as_of
        seconds = self._tell(asked, status, request_id, trace_id, began)
        own = b"age: %d\r\nserver-timing: total;dur=%.1f\r\n" % (age, seconds * 1000)
        return head + own + self._fields(status, verdict, request_id, seconds), body

    async def _gather(self, asked: _Asked, ask: Ask, verdict: Verdict, began: _Began) -> Reply:
        """In a task of its own."""
        request_id = asked.request_id or new_request_id()
        begin_request(request_id, self._seconds)
        status, ratio = CLIENT_GONE, self._sample_ratio
        span = begin_entry(f"GET {asked.route}", SpanKind.SERVER, asked.traceparent, sample_ratio=ratio)
        with self._in_progress:
            try:
                status, headers, body = await self._gathered(asked, ask)
            finally:
                if span is not None:
                    describe(span, "GET", asked.route, status, request_id)
                    span.end()
                self._from_owners.inc()
                seconds = self._tell(asked, status, request_id, current_trace_id(), began)
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        if status not in WITHOUT_BODY:
            lines.append(f"content-length: {len(body)}\r\n")
        head = _status_line(status) + _ALWAYS + "".join(lines).encode("latin-1")
        return head + self._fields(status, verdict, request_id, seconds), body

    async def _gathered(self, asked: _Asked, ask: Ask) -> tuple[int, Mapping[str, str], bytes]:
        try:
            status, headers, body = await gathered(self._resources.dashboards, ask, asked.if_none_match)
            return status, headers, await encoded(headers, body, asked.accept_encoding)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            response = last_resort(error)
            headers = {name: value for name, value in response.headers.items() if name not in _ADDED}
            return response.status_code, headers, bytes(response.body)

    def _tell(self, asked: _Asked, status: int, request_id: str, trace_id: str, began: _Began) -> float:
        """Metrics and the log of an answer; the seconds it took."""
        seconds = time.perf_counter() - began.at
        count_of(HTTP_REQUESTS, "GET", asked.route, str(status)).inc()
        times_of(HTTP_SECONDS, "GET", asked.route).observe(seconds)
        log_access(Answered("GET", asked.route, asked.path, status, seconds, request_id, trace_id))
        return seconds

    def _fields(self, status: int, verdict: Verdict, request_id: str, seconds: float) -> bytes:
        """What is not the same for all who get the same answer."""
        if status == _NOT_MODIFIED:
            verdict = self._resources.limiter.give_back(verdict)
        own = b"x-request-id: %b\r\nx-process-time: %.6f\r\n" % (request_id.encode(), seconds)
        return own + header_lines(limit_fields([verdict]))


@cache
def _status_line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in _STATUSES else ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def _known_answer(whole: Whole, status: int, *, zipped: bool) -> tuple[bytes, bytes]:
    """Head and body as far as they are the same for all who get this."""
    known = whole.answers.get((status, zipped))
    if known is None:
        body = b""
        lines = [f"{name}: {value}" for name, value in whole_fields(whole).items()]
        lines.append("vary: Authorization, Accept-Encoding")
        if status != _NOT_MODIFIED:
            body = compress(whole.body) if zipped else whole.body
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
            lines += ["content-encoding: gzip"] if zipped else []
        head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        known = whole.answers[status, zipped] = _status_line(status) + _ALWAYS + head, body
    return known


def _read(data: bytes) -> _Asked | None:
    """None where anything about it is unusual."""
    head = read_head(data)
    named = _BY_ID_PATH.fullmatch(head.path) if head else None
    if head is None or head.method != "GET" or not (named or head.path == _ME):
        return None
    fields = _fields(head.headers)
    scheme, _, token = fields.get("authorization", "").partition(" ") if fields else ("", "", "")
    if fields is None or scheme != "Bearer":
        return None
    request_id = fields.get("x-request-id", "")
    return _Asked(
        _BY_ID if named else _ME,
        head.path,
        named[1] if named else None,
        fields["authorization"],
        token,
        fields.get("if-none-match"),
        fields.get("accept-encoding", ""),
        wants_no_cache(head.headers),
        request_id if REQUEST_ID_PATTERN.fullmatch(request_id) else "",
        fields.get("traceparent"),
    )


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str] | None:
    """The headers that matter here; None where there are others that do, or one is there twice."""
    fields: dict[str, str] = {}
    for raw_name, value in headers:
        name = _READ.get(raw_name)
        if raw_name in _UNUSUAL or name in fields:
            return None
        if name is not None:
            fields[name] = value.decode("latin-1")
    return fields
