"""What happens around every request, as one pure ASGI middleware: id, trace, deadline, body, answer of last resort.

BaseHTTPMiddleware is not used anywhere: it hides disconnects and costs more than everything here.
"""

import asyncio
import logging
import re
import time

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop_common import context
from shop_common.errors import AppError, BadRequest, DeadlineExceeded, PayloadTooLarge, Unavailable
from shop_common.metrics import HTTP_IN_PROGRESS, HTTP_REQUESTS, HTTP_SECONDS
from shop_common.problems import app_error_response, problem_response
from shop_common.settings import HttpServerSettings, TracingSettings
from shop_common.tracing import entry_span

DEADLINE_HEADER = "X-Deadline-Ms"
REQUEST_ID_HEADER = "X-Request-Id"
_MAX_HEADER_BYTES = 16 * 1024
_QUIET_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MILLISECONDS = re.compile(r"\d{1,7}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_access = logging.getLogger("shop.access")
_logger = logging.getLogger(__name__)


class HeadersTooLarge(AppError):
    status, code, title = 431, "headers_too_large", "Headers too large"


class BodyTimeout(AppError):
    status, code, title = 408, "body_timeout", "Body not received in time"


class RequestMiddleware:
    """Wraps a whole application; everything inside may rely on `context` and `tracing`."""

    def __init__(self, app: ASGIApp, http: HttpServerSettings, tracing: TracingSettings) -> None:
        self._app = app
        self._http = http
        self._sample_ratio = tracing.sample_ratio if tracing.endpoint else 0.0
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _one_line_failures(send))
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            raise RuntimeError(f"{scope['type']} is not served")

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        supplied = headers.get(REQUEST_ID_HEADER, "")
        context.set_request_id(supplied if _REQUEST_ID.fullmatch(supplied) else context.new_request_id())
        answer = _Answer(send)
        quiet = scope["path"] in _QUIET_PATHS
        ratio = 0.0 if quiet else self._sample_ratio
        with (
            HTTP_IN_PROGRESS.track_inprogress(),
            entry_span(scope["method"], SpanKind.SERVER, headers.get("traceparent"), sample_ratio=ratio) as span,
        ):
            await self._guarded(scope, headers, receive, answer)
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = time.perf_counter() - answer.started
            HTTP_REQUESTS.labels(method, route, answer.status).inc()
            HTTP_SECONDS.labels(method, route).observe(seconds)
            if span is not None:
                _describe(span, method, route, answer.status)
            if not quiet:
                fields = {"method": method, "route": route, "path": scope["path"], "status": answer.status}
                _access.info("request", extra=fields | {"ms": round(seconds * 1000, 2)})

    async def _guarded(self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer") -> None:
        """Run the application within limits; whatever escapes it becomes a problem document."""
        self._in_progress += 1
        try:
            if self._in_progress > self._http.limit_concurrency and scope["path"] not in _QUIET_PATHS:
                raise Unavailable("Too many requests are under way; try again shortly")
            seconds = self._deadline_seconds(headers)
            context.set_deadline(seconds)
            async with asyncio.timeout(seconds) as deadline:
                try:
                    await self._app(scope, await self._buffered(headers, receive), answer.send)
                except TimeoutError:
                    if deadline.expired():
                        raise
                    raise RuntimeError("a timeout inside the request was not handled") from None
        except ClientDisconnect:
            answer.status = 499
        except Exception as error:
            if answer.begun:
                raise
            response = self._last_resort(error)
            await response(scope, receive, answer.send)
        finally:
            self._in_progress -= 1

    def _last_resort(self, error: Exception) -> ASGIApp:
        if isinstance(error, TimeoutError):
            return app_error_response(DeadlineExceeded("The request was not done before its deadline"))
        if isinstance(error, AppError):
            return app_error_response(error)
        _logger.error("unhandled error", exc_info=error)
        detail = "Something unexpected happened; quote the request id when you report it"
        return problem_response(500, "internal_error", "Internal error", detail)

    def _deadline_seconds(self, headers: Headers) -> float:
        own = self._http.deadline_seconds
        given = headers.get(DEADLINE_HEADER)
        if given is None:
            return own
        if not _MILLISECONDS.fullmatch(given):
            raise BadRequest(f"{DEADLINE_HEADER} must be whole milliseconds", pointer=f"#header/{DEADLINE_HEADER}")
        return min(own, int(given) / 1000)

    async def _buffered(self, headers: Headers, receive: Receive) -> Receive:
        """Take the whole body before any resource is held for it, so that a slow client holds none."""
        if sum(len(name) + len(value) for name, value in headers.raw) > _MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"All headers together may have {_MAX_HEADER_BYTES} bytes")
        declared = headers.get("content-length", "")
        if not declared and "transfer-encoding" not in headers:
            return receive
        limit = self._http.max_body_bytes
        too_large = PayloadTooLarge(f"A body may have {limit} bytes")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._http.body_seconds):
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
            raise BodyTimeout(f"The body must arrive within {self._http.body_seconds:g} s") from None
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

    __slots__ = ("_send", "begun", "started", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.status = 500
        self.started = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = context.request_id()
            headers["X-Process-Time"] = f"{time.perf_counter() - self.started:.6f}"
        await self._send(message)


def _describe(span: Span, method: str, route: str, status: int) -> None:
    span.update_name(f"{method} {route}")
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("request.id", context.request_id())
    if status >= 500:  # noqa: PLR2004 - server errors
        span.set_status(Status(StatusCode.ERROR))


def _one_line_failures(send: Send) -> Send:
    """A failed start is a sentence for an operator, not a traceback: keep the traceback's last line."""

    async def shortened(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            last_line = message.get("message", "").strip().rpartition("\n")[2]
            message["message"] = last_line.removeprefix("shop_common.errors.StartupError: ")
        await send(message)

    return shortened
