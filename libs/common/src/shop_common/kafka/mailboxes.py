"""The records of one partition in one assignment: in order inside a key, concurrent across keys, bounded."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from shop_common.events.envelope import KafkaRecord
from shop_common.kafka.backoff import happens_within
from shop_common.kafka.tracker import OffsetTracker, Pending

HIGH_WATER: Final = 500
LOW_WATER: Final = 100
_LETTERS_AT_ONCE: Final = 4
_CANCEL_SECONDS: Final = 1.0


class Mailboxes:
    """Gives each record to `deliver`, which returns whether the record is done with; False leaves it to a later owner.

    `set_paused` stops and restarts the fetching of this partition; `failed` hears of a bug in `deliver`.
    """

    def __init__(
        self,
        deliver: Callable[["Mailboxes", KafkaRecord], Awaitable[bool]],
        set_paused: Callable[[bool], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._deliver = deliver
        self._set_paused = set_paused
        self._failed = failed
        self._boxes: dict[bytes | None, deque[tuple[Pending, KafkaRecord]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._paused = False
        self._closing = asyncio.Event()
        self.tracker = OffsetTracker()
        self.backlog = 0
        """Records posted and not done."""
        self.moved_at = time.monotonic()
        """When a record last came, began, ended, or was found to wait for infrastructure."""
        self.letters = asyncio.Semaphore(_LETTERS_AT_ONCE)
        """Bounds the dead letters under way: a flood of poison leaves the producer to others too."""

    def post(self, record: KafkaRecord) -> None:
        if self._closing.is_set():
            return  # not tracked, so not committed: the next owner reads it
        entry = self.tracker.dispatch(record.offset)
        self.backlog += 1
        box = self._boxes.get(record.key)
        if box is None:
            box = self._boxes[record.key] = deque()
            task = asyncio.create_task(self._work(record.key, box))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        box.append((entry, record))
        self._moved()

    async def _work(self, key: bytes | None, box: deque[tuple[Pending, KafkaRecord]]) -> None:
        while box and not self._closing.is_set():
            entry, record = box[0]
            if not await self._deliver(self, record):
                return
            box.popleft()
            self.tracker.complete(entry)
            self.backlog -= 1
            self._moved()
        if not box:
            del self._boxes[key]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failed(error)

    def _moved(self) -> None:
        self.moved_at = time.monotonic()
        full = self.backlog > LOW_WATER if self._paused else self.backlog >= HIGH_WATER
        paused = full or self._waiting > 0
        if paused != self._paused and not self._closing.is_set():
            self._paused = paused
            self._set_paused(paused)

    async def wait(self, seconds: float) -> bool:
        """Sleep between two tries of a record; False where the partition is being given up."""
        return not await happens_within(self._closing, seconds)

    async def wait_for_infrastructure(self, seconds: float) -> bool:
        """The same, with the partition paused meanwhile."""
        self._waiting += 1
        self._moved()
        try:
            return await self.wait(seconds)
        finally:
            self._waiting -= 1
            self._moved()

    async def close(self, drain_seconds: float) -> None:
        """Start no more; let what runs end for so long, then cancel it. What did not end is not completed."""
        self._closing.set()
        for seconds in (drain_seconds, _CANCEL_SECONDS):
            if not self._tasks:
                break
            await asyncio.wait(set(self._tasks), timeout=seconds)
            for task in self._tasks:
                task.cancel()
