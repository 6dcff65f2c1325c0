"""What belongs to the request under way, for logs, problems and calls onward: its id, and when it must be done."""

import time
import uuid
from contextvars import ContextVar

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def new_request_id() -> str:
    return uuid.uuid4().hex


def request_id() -> str:
    """The id of the request under way, empty outside one."""
    return _request_id.get()


def set_request_id(value: str) -> None:
    _request_id.set(value)


def set_deadline(seconds: float) -> None:
    _deadline.set(time.monotonic() + seconds)


def remaining_seconds() -> float | None:
    """Seconds until the request's deadline, never negative; None where there is no request."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())
