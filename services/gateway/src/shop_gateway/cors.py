"""CORS for the pages of configured origins: which headers they may send and read."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from shop_common.context import new_request_id, request_scope
from shop_common.problems import problem_response
from shop_gateway.settings import CorsSettings

_METHODS = ("GET", "POST", "PATCH", "DELETE")
_MAY_SEND = (
    "Authorization",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Prefer",
    "X-Request-Id",
    "traceparent",
    "Consistency-Token",
    "Cache-Control",
    "Last-Event-ID",
)
_MAY_READ = (
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Section-Status",
    "Cache-Status",
    "Server-Timing",
    "X-Request-Id",
    "Consistency-Token",
)
_BAD_REQUEST = 400


class Cors(CORSMiddleware):
    """Outermost, so that pages can read errors of every origin too; refuses with a problem document."""

    def __init__(self, app: ASGIApp, cors: CorsSettings) -> None:
        super().__init__(app, cors.origins, _METHODS, _MAY_SEND, expose_headers=_MAY_READ)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < _BAD_REQUEST:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        detail = "This origin, method or header may not be used from a page"
        with request_scope(new_request_id()):
            return problem_response(400, "cors_refused", "Not allowed across origins", detail, headers=kept)
