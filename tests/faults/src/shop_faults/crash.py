"""How a process is made to kill itself at a point of its work, once, without a word of this in the product."""

import copy
import inspect
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from shop_faults.patch import Patch, find_target

Process = Literal["shop_users.app", "shop_users.worker", "shop_orders.app", "shop_orders.worker"]

Position = Literal["before", "after", "inside", "step"]
Counts = Callable[[tuple[Any, ...], Any], bool]
"""Whether a call with these arguments, self among them, and this result is one at which the point is reached."""


def always(_: tuple[Any, ...], __: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Failpoint:
    """`before` a call, `after` it returned, `inside` a context whose body ended without an error, or after a `step`.

    A step, such as `_orders.update_many`, is the method of an attribute of self, called on the way through the target.
    """

    name: str
    process: Process
    target: str
    position: Position
    crash_point: str
    """The row of the specification's table of crash points, or one in its style."""
    healed_by: str
    counts: Counts = always
    step: str = ""


class Trigger:
    """Kills this process the `at`-th time it is reached while the file `fuse` is there, which is gone then: once."""

    def __init__(self, at: int, fuse: Path) -> None:
        self._at = at
        self._fuse = fuse
        self._count = 0

    def reached(self) -> None:
        if not self._fuse.exists():
            return
        self._count += 1
        if self._count != self._at:
            return
        try:
            self._fuse.unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def create_trigger(environment: Mapping[str, str]) -> Trigger:
    """From SHOP_FAULTS_FUSE and SHOP_FAULTS_AT. KeyError or ValueError where that fails."""
    at = int(environment["SHOP_FAULTS_AT"])
    if at < 1:
        raise ValueError("SHOP_FAULTS_AT counts from 1")
    return Trigger(at, Path(environment["SHOP_FAULTS_FUSE"]))


def failpoint_patch(point: Failpoint, reached: Callable[[], None]) -> Patch:
    """The target with a call of `reached` at the point. AttributeError where the target is gone."""
    owner, name, original = find_target(point.target)
    match point.position:
        case "before":
            wrapper = _before(original, point.counts, reached)
        case "after":
            wrapper = _after(original, point.counts, reached)
        case "inside":
            wrapper = _inside(original, point.counts, reached)
        case "step":
            wrapper = _step(point.step, original, point.counts, reached)
    return Patch(owner, name, wraps(original)(wrapper))


def _before(original: Callable[..., Any], counts: Counts, reached: Callable[[], None]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if counts(args, None):
            reached()
        return original(*args, **kwargs)

    return wrapper


def _after(original: Callable[..., Any], counts: Counts, reached: Callable[[], None]) -> Callable[..., Any]:
    async def awaited(pending: Awaitable[Any], args: tuple[Any, ...]) -> Any:
        return noted(await pending, args)

    def noted(result: Any, args: tuple[Any, ...]) -> Any:
        if counts(args, result):
            reached()
        return result

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        return awaited(result, args) if inspect.isawaitable(result) else noted(result, args)

    return wrapper


def _inside(original: Callable[..., Any], counts: Counts, reached: Callable[[], None]) -> Callable[..., Any]:
    @asynccontextmanager
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with original(*args, **kwargs) as resource:
            yield resource
            if counts(args, resource):
                reached()

    return wrapper


def _step(step: str, original: Callable[..., Any], counts: Counts, reached: Callable[[], None]) -> Callable[..., Any]:
    attribute, _, method = step.partition(".")

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        watched = copy.copy(self)
        setattr(watched, attribute, _Watched(getattr(self, attribute), method, counts, reached))
        return original(watched, *args, **kwargs)

    return wrapper


class _Watched:
    """In the place of an object of whatever class, with a point after one of its methods."""

    def __init__(self, inner: Any, method: str, counts: Counts, reached: Callable[[], None]) -> None:
        self._inner = inner
        setattr(self, method, _after(getattr(inner, method), counts, reached))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
