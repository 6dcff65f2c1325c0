"""What the load client was told, one line per operation, on disk before the next operation begins."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

Kind = Literal["register", "change", "deactivate", "place", "pay", "cancel"]
Outcome = Literal["acked", "rejected", "unknown", "untold"]
"""Untold: unknown when the account was deactivated, and nobody answers its customer since. Done once, or not at all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation, identified by its key."""

    kind: Kind
    key: str
    """Of a registration its email, of a change its full name, of the rest the idempotency key."""
    user_id: str
    outcome: Outcome
    aggregate_id: str = ""
    version: int = 0
    amount: int = 0
    status: str = ""
    """HTTP's, or the kind of failure where there was no answer."""
    was_unknown: bool = False
    """The verdict over an operation whose outcome was not known at first."""


class Ledger:
    """Append-only; a line counts once it is synced."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = asyncio.Lock()
        self.entries: dict[tuple[Kind, str], Entry] = {}

    async def write(self, entry: Entry) -> None:
        earlier = self.entries.get((entry.kind, entry.key))
        if earlier is not None:
            if earlier.outcome != "unknown":
                raise ValueError(f"{entry.kind} {entry.key} has its outcome already")
            entry = replace(entry, was_unknown=True)
        line = json.dumps(asdict(entry)).encode() + b"\n"
        async with self._lock:
            await asyncio.to_thread(self._append, line)
        self.entries[entry.kind, entry.key] = entry

    def _append(self, line: bytes) -> None:
        os.write(self._descriptor, line)
        os.fsync(self._descriptor)

    def of(self, outcome: Outcome, *kinds: Kind) -> list[Entry]:
        """Those with this outcome now, of these kinds or of all."""
        return [each for each in self.entries.values() if each.outcome == outcome and (not kinds or each.kind in kinds)]


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    try:
        yield Ledger(descriptor)
    finally:
        os.close(descriptor)
