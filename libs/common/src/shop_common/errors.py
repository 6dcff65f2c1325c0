"""What can go wrong, as types: each class states its HTTP status and its machine-readable code, or cannot be defined.

    AppError
    ├── BadRequest 400 ── Unauthenticated 401 · Forbidden 403 · NotFound 404 · Conflict 409
    ├── PreconditionFailed 412 · PayloadTooLarge 413 · UnsupportedMediaType 415 · Unprocessable 422
    ├── PreconditionRequired 428 · TooManyRequests 429
    └── Unavailable 503 · DeadlineExceeded 504
    StartupError: a process cannot start; one line that names cause and remedy

Services derive their own from these and give each a code of its own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class AppError(Exception):
    """An answer that is not success; `detail` is shown to clients, so it carries no secrets."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("status", "title"):
            if not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} must define {name}")
        if "code" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} must define a code of its own")

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.pointer = pointer
        """JSON pointer to the field at fault, e.g. `#/email`."""


class BadRequest(AppError):
    status, code, title = 400, "bad_request", "Bad request"


class Unauthenticated(AppError):
    status, code, title = 401, "unauthenticated", "Authentication required"

    def __init__(self, detail: str, *, error: str | None = None) -> None:
        challenge = "Bearer" if error is None else f'Bearer error="{error}"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(AppError):
    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(AppError):
    status, code, title = 404, "not_found", "Not found"


class Conflict(AppError):
    status, code, title = 409, "conflict", "Conflict"


class PreconditionFailed(AppError):
    status, code, title = 412, "precondition_failed", "The resource has changed"


class PayloadTooLarge(AppError):
    status, code, title = 413, "payload_too_large", "Body too large"


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Unprocessable(AppError):
    status, code, title = 422, "unprocessable", "Request not valid"


class PreconditionRequired(AppError):
    status, code, title = 428, "precondition_required", "If-Match required"


class TooManyRequests(AppError):
    status, code, title = 429, "too_many_requests", "Too many requests"


class Unavailable(AppError):
    """A backend has no room or does not answer: nothing was decided, the client may try again."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class DeadlineExceeded(AppError):
    status, code, title = 504, "deadline_exceeded", "Deadline exceeded"


class StartupError(Exception):
    """The process cannot start. The message is one line: what is wrong, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # a server's own words may have a hint on a line of its own
