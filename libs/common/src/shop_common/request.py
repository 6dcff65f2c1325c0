"""What happens around every request, as one pure ASGI middleware: id, trace, deadline, body, answer of last resort.

BaseHTTPMiddleware is not used anywhere: it hides disconnects and costs more than everything here.
"""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop_common import context
from shop_common.errors import (
    AppError,
    BadRequest,
    DeadlineExceeded,
    PayloadTooLarge,
    StartupError,
    Unavailable,
)
from shop_common.logs import Answered, log_access
from shop_common.metrics import HTTP_IN_PROGRESS, HTTP_REQUESTS, HTTP_SECONDS, count_of, times_of
from shop_common.problems import METHODS, app_error_response, problem_response
from shop_common.settings import HttpServerSettings, TracingSettings
from shop_common.tracing import RecordedSpan, current_trace_id, entry_span

DEADLINE_HEADER = "X-Deadline-Ms"
REQUEST_ID_HEADER = "X-Request-Id"
_DEADLINE, _REQUEST_ID = DEADLINE_HEADER.lower(), REQUEST_ID_HEADER.lower()
_TASK = "shop.task"
"""The key of the task that reads for a client, in an ASGI scope; False once the client has gone."""
_READS = frozenset({"GET", "HEAD"})
_MAX_HEAD_BYTES = 16 * 1024
_HEADER_LINE_BYTES = len(": \r\n")  # or there might be thousands of headers with nothing in them
_QUIET_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})
REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MILLISECONDS = re.compile(r"\d{1,7}")
_SERVER_ERROR = 500
CLIENT_GONE = 499

_logger = logging.getLogger(__name__)


class HeadersTooLarge(AppError):
    status, code, title = 431, "headers_too_large", "Headers too large"


class BodyTimeout(AppError):
    status, code, title = 408, "body_timeout", "Body not received in time"


ANY_REQUEST: Final[tuple[type[AppError], ...]] = (
    BadRequest,
    BodyTimeout,
    PayloadTooLarge,
    HeadersTooLarge,
    Unavailable,
    DeadlineExceeded,
)
"""What a request may end in before or around whatever route it asks for; documented with each."""


def abandon(scope: Scope) -> None:
    """The client has gone: a read is cancelled; what may change something goes on, so that its outcome is sure."""
    if task := scope.get(_TASK):
        scope[_TASK] = False
        task.cancel()


class InProgress:
    """Requests that a process has under way: each is one from entering to leaving this."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    @property
    def is_full(self) -> bool:
        """One more would be one too many."""
        return self._count >= self._limit

    @property
    def is_exceeded(self) -> bool:
        return self._count > self._limit

    def __enter__(self) -> None:
        self._count += 1
        HTTP_IN_PROGRESS.inc()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        HTTP_IN_PROGRESS.dec()


class RequestMiddleware:
    """Wraps a whole application; everything inside may rely on `context` and `tracing`."""

    def __init__(
        self, app: ASGIApp, http: HttpServerSettings, tracing: TracingSettings, in_progress: InProgress
    ) -> None:
        self._app = app
        self._http = http
        self._sample_ratio = tracing.recorded_share
        self._in_progress = in_progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _one_line_failures(send))
        else:  # the server is told to upgrade nothing, so there are no websockets
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _first_of_each(scope)
        supplied = headers.get(_REQUEST_ID, "")
        request_id = supplied if REQUEST_ID_PATTERN.fullmatch(supplied) else context.new_request_id()
        method = scope["method"] if scope["method"] in METHODS else "other"
        quiet = scope["path"] in _QUIET_PATHS
        ratio = 0.0 if quiet else self._sample_ratio
        answer = _Answer(send)
        with (
            context.request_scope(request_id),
            self._in_progress,
            entry_span(method, SpanKind.SERVER, headers.get("traceparent"), sample_ratio=ratio) as span,
        ):
            try:
                await self._guarded(scope, headers, receive, answer)
            finally:
                route, seconds = _route(scope), time.perf_counter() - answer.started
                count_of(HTTP_REQUESTS, method, route, str(answer.status)).inc()
                times_of(HTTP_SECONDS, method, route).observe(seconds)
                if span is not None:
                    describe(span, method, route, answer.status, request_id)
                if not quiet:
                    traced = current_trace_id()
                    log_access(Answered(method, route, scope["path"], answer.status, seconds, request_id, traced))

    async def _guarded(self, scope: Scope, headers: Mapping[str, str], receive: Receive, answer: "_Answer") -> None:
        """Run the application within limits; whatever escapes it becomes a problem document."""
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        try:
            self._check_limits(scope)
            seconds = self._deadline_seconds(headers)
            context.set_deadline(seconds)
            if has_body:
                receive = await self._buffered(headers, receive, min(seconds, self._http.body_seconds))
                has_body = False
            if scope["method"] in _READS:
                scope[_TASK] = asyncio.current_task()
            async with asyncio.timeout(context.remaining_seconds()) as answer.deadline:
                await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:
            if scope.get(_TASK) is not False:
                raise
            answer.status = CLIENT_GONE
        except ClientDisconnect:
            answer.status = CLIENT_GONE
        except Exception as error:
            if answer.begun:  # too late for a problem document: the server cuts the connection
                answer.status = _SERVER_ERROR
                raise
            response = last_resort(error, late=answer.deadline is not None and answer.deadline.expired())
            if has_body:  # the rest of it is still coming, in whatever amount
                response.headers["Connection"] = "close"
            await response(scope, receive, answer.send)

    def _check_limits(self, scope: Scope) -> None:
        if self._in_progress.is_exceeded and scope["path"] not in _QUIET_PATHS:
            raise Unavailable("Too many requests are under way; try again shortly")
        if not head_bytes_allowed(scope):
            raise HeadersTooLarge(f"Address and headers together may have {_MAX_HEAD_BYTES} bytes")

    def _deadline_seconds(self, headers: Mapping[str, str]) -> float:
        own = self._http.deadline_seconds
        given = headers.get(_DEADLINE)
        if given is None:
            return own
        if not _MILLISECONDS.fullmatch(given):
            raise BadRequest(f"{DEADLINE_HEADER} must be whole milliseconds", pointer=f"#header/{DEADLINE_HEADER}")
        return min(own, int(given) / 1000)

    async def _buffered(self, headers: Mapping[str, str], receive: Receive, seconds: float) -> Receive:
        """Take the whole body before any resource is held for it, so that a slow client holds none."""
        limit = self._http.max_body_bytes
        too_large = PayloadTooLarge(f"A body may have {limit} bytes")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise BodyTimeout(f"The body must arrive within {seconds:g} s") from None
        whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        return replay


class _Answer:
    """Watches what goes out: its status, and the headers every answer carries."""

    __slots__ = ("_send", "begun", "deadline", "started", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.deadline: asyncio.Timeout | None = None
        self.status = _SERVER_ERROR
        self.started = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            seconds = time.perf_counter() - self.started
            own = (b"x-request-id", context.request_id().encode()), (b"x-process-time", b"%.6f" % seconds)
            message["headers"] = [*message.get("headers", ()), *own]
        await self._send(message)


def last_resort(error: Exception, *, late: bool = False) -> Response:
    """The problem document of what nobody has answered."""
    if isinstance(error, AppError):
        return app_error_response(error)
    if late:
        return app_error_response(DeadlineExceeded("The request was not done before its deadline"))
    _logger.error("unhandled error", exc_info=error)
    detail = "Something unexpected happened; quote the request id when you report it"
    return problem_response(500, "internal_error", "Internal error", detail)


def _first_of_each(scope: Scope) -> Mapping[str, str]:
    """Headers by their names in lower case; of one that was sent again, the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def head_bytes_allowed(scope: Scope) -> bool:
    address = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    headers = sum(len(name) + len(value) + _HEADER_LINE_BYTES for name, value in scope["headers"])
    return address + headers <= _MAX_HEAD_BYTES


def _route(scope: Scope) -> str:
    """The matched route's template, so that metrics and span names stay few."""
    endpoint, route = scope.get("endpoint"), scope.get("route")
    if route is None and endpoint is not None:  # FastAPI leaves Starlette's plain routes out of the scope
        route = next((each for each in scope["app"].routes if getattr(each, "endpoint", None) is endpoint), None)
    included = scope.get("fastapi", {}).get("effective_route_context")  # knows the prefixes of nested routers
    return str(getattr(included, "path", "") or getattr(route, "path", "unmatched"))


def request_attributes(method: str, route: str, status: int, request_id: str) -> dict[str, AttributeValue]:
    """Of a request's span, whose name is method and route."""
    return {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "request.id": request_id,
    }


def describe(span: RecordedSpan, method: str, route: str, status: int, request_id: str) -> None:
    """Of a request that was answered."""
    span.update_name(f"{method} {route}")
    span.set_attributes(request_attributes(method, route, status, request_id))
    if status >= _SERVER_ERROR:
        span.set_status(Status(StatusCode.ERROR))


def _one_line_failures(send: Send) -> Send:
    """A failed start is a sentence for an operator; a traceback is for what nobody foresaw."""

    async def shortened(message: Message) -> None:
        # Starlette sends this while it handles the exception.
        if message["type"] == "lifespan.startup.failed" and isinstance(error := sys.exception(), StartupError):
            print(error, file=sys.stderr)  # noqa: T201 - the command line's answer
            message["message"] = ""
        await send(message)

    return shortened
