"""What belongs to the request under way, for logs, problems and calls onward: its id, and when it must be done."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SHARE_FOR_WAITING = 0.9

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def new_request_id() -> str:
    return f"{random.getrandbits(128):032x}"


def request_id() -> str:
    """The id of the request under way, empty outside one."""
    return _request_id.get()


@contextmanager
def request_scope(request_id: str) -> Iterator[None]:
    """What is set for one request ends with it, also where another request's task calls this application directly."""
    id_before, deadline_before = _request_id.set(request_id), _deadline.set(None)
    try:
        yield
    finally:
        _request_id.reset(id_before)
        _deadline.reset(deadline_before)


def begin_request(request_id: str, seconds: float) -> None:
    """As `request_scope` and `set_deadline`, in a task that ends with its request."""
    _request_id.set(request_id)
    set_deadline(seconds)


def set_deadline(seconds: float) -> None:
    """Seconds from now until the request must be done."""
    _deadline.set(time.monotonic() + seconds)


def remaining_seconds() -> float | None:
    """Seconds until the request's deadline, never negative; None where there is none."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def before_deadline(seconds: float) -> float:
    """How long a connection may be waited for: nine tenths of what is left at most; the caller still hears why."""
    remaining = remaining_seconds()
    return seconds if remaining is None else min(seconds, remaining * _SHARE_FOR_WAITING)
