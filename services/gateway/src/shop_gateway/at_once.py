"""The hot path: a dashboard that is whole in memory, answered where its request arrives.

It does what the middlewares and the route would do, for the one case in which none of them has to wait: the token was
verified before, a lease has requests left, all sections are fresh. Whatever is unusual about a request is theirs.

Who asks again and again sends the same bytes each time, so they are parsed when they come first.
"""

import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from shop_common.context import new_request_id
from shop_common.heads import read_head
from shop_common.logs import Answered, log_access
from shop_common.metrics import HTTP_REQUESTS, HTTP_SECONDS
from shop_common.preconditions import is_unchanged
from shop_common.protocol import header_lines
from shop_common.request import REQUEST_ID_PATTERN, request_attributes
from shop_common.tracing import record_entry
from shop_gateway.compression import LEAST_BYTES, compress, takes_gzip
from shop_gateway.edge import ALWAYS, limit_fields
from shop_gateway.models import Whole
from shop_gateway.resources import Resources
from shop_gateway.schemas import whole_fields

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
        b"cache-control",
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
AT_ONCE = Counter("shop_gateway_at_once_total", "Dashboards answered where their request arrived")
_NOT_MODIFIED: Final = 304
_STATUS: Final = {200: b"HTTP/1.1 200 OK\r\n", _NOT_MODIFIED: b"HTTP/1.1 304 Not Modified\r\n"}
_ALWAYS: Final = header_lines(ALWAYS)


class _Asked(NamedTuple):
    """What matters of a request."""

    route: str
    path: str
    user_id: str | None
    """None: the one who asks."""
    token: str
    if_none_match: str | None
    takes_gzip: bool
    request_id: str
    """Empty where the client sent none."""
    traceparent: str | None


class AtOnce:
    """Called with what has come of each request; None for all but that one."""

    def __init__(self, resources: Resources, sample_ratio: float) -> None:
        self._resources = resources
        self._sample_ratio = sample_ratio
        self._read = lru_cache(maxsize=_HEADS)(_read)
        self._counted = {
            (path, status): HTTP_REQUESTS.labels("GET", path, status) for path in (_ME, _BY_ID) for status in _STATUS
        }
        self._timed = {path: HTTP_SECONDS.labels("GET", path) for path in (_ME, _BY_ID)}

    def __call__(self, data: bytes) -> tuple[bytes, bytes] | None:
        if b"/dashboard " not in data[:_LINE_BYTES] or len(data) > _MAX_HEAD_BYTES:
            return None
        started, began_ns = time.perf_counter(), time.time_ns()
        asked = self._read(data)
        principal = self._resources.tokens.recall(asked.token) if asked else None
        if asked is None or principal is None or principal.user_id in self._resources.revocations:
            return None
        user_id = asked.user_id or principal.user_id
        dashboards = self._resources.dashboards
        user = dashboards.find_fresh(user_id) if principal.may_see(user_id) else None
        if user is None:
            return None
        verdict = self._resources.limiter.try_take(f"user:{principal.user_id}")
        if verdict is None or not verdict.allowed:
            return None
        whole = dashboards.from_memory(user)
        status = _NOT_MODIFIED if is_unchanged(asked.if_none_match, whole.etag) else 200
        if status == _NOT_MODIFIED:
            verdict = self._resources.limiter.give_back(verdict)
        request_id = asked.request_id or new_request_id()
        route = asked.route
        head, body = _answer(whole, status, zipped=asked.takes_gzip and len(whole.body) >= LEAST_BYTES)
        trace_id = record_entry(
            f"GET {route}",
            SpanKind.SERVER,
            asked.traceparent,
            request_attributes("GET", route, status, request_id),
            sample_ratio=self._sample_ratio,
            began_ns=began_ns,
        )
        seconds = time.perf_counter() - started
        own = b"age: %d\r\nx-request-id: %b\r\nx-process-time: %.6f\r\nserver-timing: total;dur=%.1f\r\n" % (
            time.monotonic() - whole.as_of,
            request_id.encode(),
            seconds,
            seconds * 1000,
        )
        limits = header_lines(limit_fields([verdict]))
        AT_ONCE.inc()
        self._counted[route, status].inc()
        self._timed[route].observe(seconds)
        log_access(Answered("GET", route, asked.path, status, seconds, request_id, trace_id))
        return head + own + limits, body


def _answer(whole: Whole, status: int, *, zipped: bool) -> tuple[bytes, bytes]:
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
        known = whole.answers[status, zipped] = _STATUS[status] + _ALWAYS + head, body
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
        token,
        fields.get("if-none-match"),
        takes_gzip(fields.get("accept-encoding", "")),
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
