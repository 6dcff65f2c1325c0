"""The outbox relay: what a service wrote beside its rows or documents becomes events in Kafka, at least once, in order.

A version of an aggregate is sent only after the one before it was acked, and marked only after its own ack. So a crash
anywhere, or a second relay, adds duplicates and nothing else. No transaction is open while sending.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from prometheus_client import Counter, Gauge

from shop_common.events.envelope import Event
from shop_common.kafka.backoff import full_jitter, happens_within
from shop_common.metrics import from_zero

log = logging.getLogger(__name__)

PUBLISHED = Counter("shop_outbox_published_total", "Events acked and marked", ["topic"])
FAILURES = Counter("shop_outbox_failures_total", "Failed steps of the relay", ["step"])
PENDING = Gauge("shop_outbox_pending", "Events read and not sent, at most one batch", multiprocess_mode="livesum")
OLDEST = Gauge("shop_outbox_oldest_seconds", "Age of the oldest event not sent", multiprocess_mode="livemax")
SHARDS_HELD = Gauge("shop_outbox_shards", "Shards this relay sends from", multiprocess_mode="livesum")

_BATCH: Final = 500
_SENDS_AT_ONCE: Final = 100
_POLL_SECONDS: Final = 0.25
_BACKOFF_SECONDS: Final = (0.25, 5.0)
_STORE_SECONDS: Final = 10.0
_LAST_ROUND_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """One event to send; `position` is whatever the store needs to mark it."""

    position: Any
    topic: str
    event: Event


class Outbox(Protocol):
    """A service's store of events to send. What it raises is logged and tried again."""

    async def pending(self, limit: int) -> Sequence[OutboxRecord]:
        """Up to `limit` events not marked, oldest first, an aggregate's versions ascending and without a gap.

        Several relays may read the same ones, at the price of duplicates; a store that can divides the aggregates
        between them, here, and notices by itself when it has lost its claim.
        """
        ...

    async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
        """Forget these; marking again what is gone already is no error."""
        ...


class Publisher(Protocol):
    """What the relay needs of `EventProducer`."""

    async def send(self, event: Event, topic: str) -> None:
        """Return once the event is acked, in bounded time, or raise."""
        ...


class OutboxRelay:
    def __init__(self, outbox: Outbox, publisher: Publisher, *, idle_poll_seconds: float = 1.0) -> None:
        """`idle_poll_seconds`: how long an event of a process that cannot nudge may wait after a quiet time."""
        self._outbox = outbox
        self._publisher = publisher
        self._idle_poll_seconds = idle_poll_seconds
        self._nudged = asyncio.Event()
        for step in ("read", "send", "mark"):
            from_zero(FAILURES, step)

    def nudge(self) -> None:
        """Something was committed: do not wait for the next poll."""
        self._nudged.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until `stop` is set; the round under way then has five seconds to end."""
        relaying = asyncio.create_task(self._relay(stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([relaying, stopping], return_when=asyncio.FIRST_COMPLETED)
            self._nudged.set()
            await asyncio.wait([relaying], timeout=_LAST_ROUND_SECONDS)
        finally:
            for task in (relaying, stopping):
                task.cancel()
            await asyncio.wait([relaying, stopping])
        if not relaying.cancelled():
            relaying.result()

    async def _relay(self, stop: asyncio.Event) -> None:
        idle = failures = 0
        while not stop.is_set():
            self._nudged.clear()  # before reading: what is committed from here on is seen, or nudges again
            records, sent = await self._round(stop)
            failed = records is None or len(sent) < len(records)
            failures = failures + 1 if failed else 0
            if failed:
                await happens_within(stop, full_jitter(failures, *_BACKOFF_SECONDS))
            elif records is not None and len(records) < _BATCH:
                idle = 0 if records else idle + 1
                await happens_within(self._nudged, min(_POLL_SECONDS * 2 ** min(idle, 8), self._idle_poll_seconds))

    async def _round(self, stop: asyncio.Event) -> tuple[Sequence[OutboxRecord] | None, list[OutboxRecord]]:
        """What was read, None if that failed, and what of it was sent."""
        sent: list[OutboxRecord] = []
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                records = await self._outbox.pending(_BATCH)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the relay outlives it
            self._failed("read", error)
            return None, sent
        self._measure(records, sent)
        aggregates = iter(_by_aggregate(records))
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(_SENDS_AT_ONCE, len(records))):
                workers.create_task(self._send(aggregates, sent, stop))
        await self._mark(sent, stop)
        self._measure(records, sent)
        return records, sent

    async def _send(
        self, aggregates: Iterator[list[OutboxRecord]], sent: list[OutboxRecord], stop: asyncio.Event
    ) -> None:
        """One of several that take aggregate after aggregate; an aggregate's failure stops its later versions only."""
        for records in aggregates:
            for record in records:
                if stop.is_set():
                    return
                try:
                    await self._publisher.send(record.event, record.topic)
                except Exception as error:  # noqa: BLE001 - one event's trouble is not the others'
                    self._failed("send", error, record)
                    break
                sent.append(record)

    async def _mark(self, sent: list[OutboxRecord], stop: asyncio.Event) -> None:
        """Until it is done: reading on would send the same events again."""
        for attempt in itertools.count():
            if not sent:
                return
            try:
                async with asyncio.timeout(_STORE_SECONDS):
                    await self._outbox.mark_sent(sent)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the relay outlives it
                self._failed("mark", error)
                if await happens_within(stop, full_jitter(attempt, *_BACKOFF_SECONDS)):
                    return
            else:
                for record in sent:
                    PUBLISHED.labels(record.topic).inc()
                return

    def _failed(self, step: str, error: Exception, record: OutboxRecord | None = None) -> None:
        FAILURES.labels(step).inc()
        about = {} if record is None else {"event_id": str(record.event.id), "type": record.event.type}
        log.warning("outbox relay failed", extra=about | {"step": step, "error": type(error).__name__})

    def _measure(self, records: Sequence[OutboxRecord], sent: Sequence[OutboxRecord]) -> None:
        done = set(map(id, sent))
        left = [record.event.time for record in records if id(record) not in done]
        PENDING.set(len(left))
        OLDEST.set((datetime.now(UTC) - min(left)).total_seconds() if left else 0)


def _by_aggregate(records: Sequence[OutboxRecord]) -> list[list[OutboxRecord]]:
    groups: dict[str, list[OutboxRecord]] = {}
    for record in records:
        groups.setdefault(record.event.subject, []).append(record)
    return list(groups.values())
