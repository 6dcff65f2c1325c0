"""The hot path: a dashboard that is whole in memory, answered where its request is parsed.

It does what the middlewares and the route would do, for the one case in which none of them has to wait: the token was
verified before, a lease has requests left, all sections are fresh. Whatever is unusual about a request is theirs.
"""

import gzip
import random
import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind
from prometheus_client import Counter
from starlette.types import Scope

from shop_common.context import new_request_id
from shop_common.logs import Answered, log_access
from shop_common.metrics import HTTP_REQUESTS, HTTP_SECONDS
from shop_common.preconditions import is_unchanged
from shop_common.protocol import header_lines
from shop_common.request import REQUEST_ID_PATTERN, describe_request, head_bytes_allowed
from shop_common.tracing import current_trace_id, entry_span
from shop_gateway.edge import ALWAYS, limit_fields
from shop_gateway.models import Whole
from shop_gateway.resources import Resources
from shop_gateway.schemas import whole_fields

GZIP_BYTES, GZIP_LEVEL = 1024, 4
_ME: Final = "/v1/me/dashboard"
_BY_ID: Final = "/v1/users/{user_id}/dashboard"
_USERS, _DASHBOARD = "/v1/users/", "/dashboard"
_READ: Final = frozenset({b"authorization", b"if-none-match", b"accept-encoding", b"x-request-id", b"traceparent"})
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
AT_ONCE = Counter("shop_gateway_at_once_total", "Dashboards answered where their request was parsed")
_NOT_MODIFIED: Final = 304
_STATUS: Final = {200: b"HTTP/1.1 200 OK\r\n", _NOT_MODIFIED: b"HTTP/1.1 304 Not Modified\r\n"}
_ALWAYS: Final = header_lines(ALWAYS)


class AtOnce:
    """Called for each request; None for all but that one."""

    def __init__(self, resources: Resources, sample_ratio: float) -> None:
        self._resources = resources
        self._sample_ratio = sample_ratio
        self._counted = {
            (path, status): HTTP_REQUESTS.labels("GET", path, status) for path in (_ME, _BY_ID) for status in _STATUS
        }
        self._timed = {path: HTTP_SECONDS.labels("GET", path) for path in (_ME, _BY_ID)}

    def __call__(self, scope: Scope) -> tuple[bytes, bytes] | None:
        path: str = scope["path"]
        if scope["method"] != "GET" or not path.endswith(_DASHBOARD) or not head_bytes_allowed(scope):
            return None
        started, began_ns = time.perf_counter(), time.time_ns()
        fields = _fields(scope)
        if fields is None:
            return None
        scheme, _, token = fields.get(b"authorization", b"").partition(b" ")
        principal = self._resources.tokens.recall(token.decode("latin-1")) if scheme == b"Bearer" else None
        if principal is None or principal.user_id in self._resources.revocations:
            return None
        user_id = principal.user_id if path == _ME else path[len(_USERS) : -len(_DASHBOARD)]
        dashboards = self._resources.dashboards
        user = dashboards.find_fresh(user_id) if principal.may_see(user_id) else None
        if user is None:
            return None
        verdict = self._resources.limiter.try_take(f"user:{principal.user_id}")
        if verdict is None or not verdict.allowed:
            return None
        whole = dashboards.from_memory(user)
        status = _NOT_MODIFIED if is_unchanged(_text(fields.get(b"if-none-match")), whole.etag) else 200
        if status == _NOT_MODIFIED:
            verdict = self._resources.limiter.give_back(verdict)
        route = _ME if path == _ME else _BY_ID
        request_id = _text(fields.get(b"x-request-id")) or ""
        if not REQUEST_ID_PATTERN.fullmatch(request_id):
            request_id = new_request_id()
        zipped = b"gzip" in fields.get(b"accept-encoding", b"") and len(whole.body) >= GZIP_BYTES
        head, body = _answer(whole, status, zipped=zipped)
        trace_id = self._trace(_text(fields.get(b"traceparent")), began_ns, route, status, request_id)
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
        log_access(Answered("GET", route, path, status, seconds, request_id, trace_id))
        return head + own + limits, body

    def _trace(self, incoming: str | None, began_ns: int, route: str, status: int, request_id: str) -> str:
        """Record it if it is to be recorded; its trace, where it has one."""
        ratio = self._sample_ratio
        if incoming is None:
            if random.random() >= ratio:  # noqa: S311 - chooses what to look at
                return ""
            ratio = 1
        with entry_span("GET", SpanKind.SERVER, incoming, sample_ratio=ratio, began_ns=began_ns) as span:
            if span is not None:
                describe_request(span, "GET", route, status, request_id)
            return current_trace_id()


def _answer(whole: Whole, status: int, *, zipped: bool) -> tuple[bytes, bytes]:
    """Head and body as far as they are the same for all who get this."""
    known = whole.answers.get((status, zipped))
    if known is None:
        body = b""
        lines = [f"{name}: {value}" for name, value in whole_fields(whole).items()]
        lines.append("vary: Authorization, Accept-Encoding")
        if status != _NOT_MODIFIED:
            body = gzip.compress(whole.body, GZIP_LEVEL, mtime=0) if zipped else whole.body
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
            lines += ["content-encoding: gzip"] if zipped else []
        head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        known = whole.answers[status, zipped] = _STATUS[status] + _ALWAYS + head, body
    return known


def _fields(scope: Scope) -> Mapping[bytes, bytes] | None:
    """The headers that matter here; None where there are others that do, or one is there twice."""
    fields: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            if name in fields:
                return None
            fields[name] = value
        elif name in _UNUSUAL:
            return None
    return fields


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
