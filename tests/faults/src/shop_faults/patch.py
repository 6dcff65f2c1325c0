"""Replacing a named part of a product module from outside, before the process uses it."""

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple


class Patch(NamedTuple):
    """`setattr(owner, name, value)`, as data: the launcher does it for good, a test until its end."""

    owner: Any
    name: str
    value: Any


def find_target(target: str) -> tuple[Any, str, Any]:
    """`package.module:Class.function` → its owner, its name there, and what it is now. AttributeError if it is gone.

    A name that another module imported is replaced there, not where it comes from.
    """
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    return owner, name, getattr(owner, name)


def replacement(target: str, value: Any) -> Patch:
    """AttributeError where the target is gone."""
    owner, name, _ = find_target(target)
    return Patch(owner, name, value)


def text_replacement(target: str, old: str, new: str) -> Patch:
    """Of one place in a constant, such as a statement. ValueError where it is not there exactly once."""
    owner, name, text = find_target(target)
    if text.count(old) != 1:
        raise ValueError(f"{target} has {old!r} {text.count(old)} times")
    return Patch(owner, name, text.replace(old, new))


def apply(patches: Iterable[Patch]) -> None:
    for owner, name, value in patches:
        setattr(owner, name, value)
