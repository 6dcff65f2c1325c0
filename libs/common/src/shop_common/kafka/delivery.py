"""What becomes of one record: handled, ignored, tried again, or put aside as a dead letter."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Gauge, Histogram
from pydantic import ValidationError

from shop_common.events.contract import Contract
from shop_common.events.envelope import Event, KafkaRecord, MalformedEvent, split_type
from shop_common.kafka.backoff import full_jitter
from shop_common.kafka.deadletter import PREFIX, dead_letter_headers, dead_letter_topic
from shop_common.kafka.mailboxes import Mailboxes
from shop_common.kafka.producer import EventProducer, EventTooLarge, SendFailed
from shop_common.metrics import from_zero
from shop_common.tracing import entry_span

log = logging.getLogger(__name__)

CONSUMED = Counter("shop_events_consumed_total", "Events done with", ["group", "type", "outcome"])
FAILURES = Counter("shop_event_failures_total", "Failed tries", ["group", "type", "kind"])
DEAD_LETTERS = Counter("shop_dead_letters_total", "Records put aside", ["group", "error"])
HANDLER_SECONDS = Histogram("shop_event_handler_seconds", "Seconds of one try", ["group", "type"])
AGE_SECONDS = Histogram(
    "shop_event_age_seconds",
    "From a change to the end of its event's handling",
    ["group"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
IN_FLIGHT = Gauge("shop_events_in_flight", "Handlers running", ["group"], multiprocess_mode="livesum")

_RETRY_SECONDS: Final = (0.1, 10.0)
_MAX_KEY: Final = 255
_INFRASTRUCTURE: Final = (ConnectionError, TimeoutError, OSError)

Handler = Callable[[Event, Any], Awaitable[None]]
"""`async def on_user_registered(event: Event, data: UserRegistered) -> None`"""


class Poison(Exception):
    """Raised by a handler for an event that it will never be able to handle."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often a failing event is tried, and for how long, before it is put aside."""

    kind: str
    tries: int
    seconds: float


MALFORMED: Final = Budget("malformed", 1, 0)
DETERMINISTIC: Final = Budget("deterministic", 3, 60)
UNCLASSIFIED: Final = Budget("unclassified", 5, 60)


@dataclass(slots=True)
class _Trouble:
    """The tries of one record so far; those that met broken infrastructure do not count."""

    first_at: datetime | None = None
    since: float = 0.0
    attempts: int = 0
    outages: int = 0

    def count(self) -> None:
        if self.first_at is None:
            self.first_at, self.since = datetime.now(UTC), time.monotonic()
        self.attempts += 1

    def spent(self, budget: Budget) -> bool:
        return self.attempts >= budget.tries or time.monotonic() - self.since >= budget.seconds


class Delivery:
    """Of one group; `transient` are further exceptions that mean infrastructure, such as a driver's own."""

    def __init__(
        self,
        group: str,
        handlers: Mapping[type[Contract], Handler],
        producer: EventProducer,
        *,
        transient: tuple[type[Exception], ...],
        at_once: int,
        handler_seconds: float,
    ) -> None:
        self._group = group
        self._handlers = {contract.TYPE: (contract, handler) for contract, handler in handlers.items()}
        self._majors = {split_type(contract.TYPE)[0] for contract in handlers}
        self._producer = producer
        self._transient: tuple[type[Exception], ...] = (*_INFRASTRUCTURE, *transient)
        self._slots = asyncio.Semaphore(at_once)
        self._handler_seconds = handler_seconds
        from_zero(DEAD_LETTERS, group, MalformedEvent.__name__)
        for kind in ("infrastructure", *(budget.kind for budget in (MALFORMED, DETERMINISTIC, UNCLASSIFIED))):
            from_zero(FAILURES, group, "unknown", kind)

    @property
    def is_busy(self) -> bool:
        """As many handlers run as may: who waits for its turn is not stuck."""
        return self._slots.locked()

    async def deliver(self, mailboxes: Mailboxes, record: KafkaRecord) -> bool:
        """True once the record is done with; False where the partition is being given up before that."""
        trouble = _Trouble()
        label = "unknown"
        while True:
            try:
                event = Event.from_kafka(record)
                label = event.type if event.type in self._handlers else "unknown"
                outcome = await self._handle(mailboxes, event)
            except self._transient as error:
                # Of all that wait for the same backend, each is told of once, however long it is away.
                level = logging.DEBUG if trouble.outages else logging.WARNING
                self._failed(record, label, "infrastructure", error, level)
                delay = full_jitter(trouble.outages, *_RETRY_SECONDS)
                trouble.outages += 1
                if not await mailboxes.wait_for_infrastructure(delay):
                    return False
            except Exception as error:  # noqa: BLE001 - a handler may raise anything, and the record must not be lost
                budget = _budget(error)
                self._failed(record, label, budget.kind, error)
                trouble.count()
                if trouble.spent(budget):
                    return await self._put_aside(mailboxes, record, label, error, trouble)
                if not await mailboxes.wait(full_jitter(trouble.attempts, *_RETRY_SECONDS)):
                    return False
            else:
                CONSUMED.labels(self._group, label, outcome).inc()
                if outcome == "handled":
                    AGE_SECONDS.labels(self._group).observe((datetime.now(UTC) - event.time).total_seconds())
                return True

    async def _handle(self, mailboxes: Mailboxes, event: Event) -> str:
        known = self._handlers.get(event.type)
        if known is None:
            if split_type(event.type)[0] in self._majors:
                raise MalformedEvent(f"{event.type} is of a major version not known here")
            return "ignored"
        contract, handler = known
        data = _parse(contract, event)
        async with self._slots:
            mailboxes.moved_at = time.monotonic()
            IN_FLIGHT.labels(self._group).inc()
            try:
                with (
                    HANDLER_SECONDS.labels(self._group, event.type).time(),
                    entry_span(f"process {event.type}", SpanKind.CONSUMER, event.traceparent) as span,
                ):
                    if span is not None:
                        span.set_attributes(
                            {
                                "messaging.system": "kafka",
                                "messaging.operation.type": "process",
                                "messaging.consumer.group.name": self._group,
                                "messaging.message.id": str(event.id),
                            }
                        )
                    async with asyncio.timeout(self._handler_seconds):
                        await handler(event, data)
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                raise RuntimeError("something the handler awaited was cancelled") from None
            finally:
                IN_FLIGHT.labels(self._group).dec()
        return "handled"

    def _failed(
        self, record: KafkaRecord, label: str, kind: str, error: Exception, level: int = logging.WARNING
    ) -> None:
        FAILURES.labels(self._group, label, kind).inc()
        about = {"type": label, "kind": kind, "error": type(error).__name__}
        log.log(level, "event failed", extra=_where(record) | about)

    async def _put_aside(
        self, mailboxes: Mailboxes, record: KafkaRecord, label: str, error: Exception, trouble: _Trouble
    ) -> bool:
        """Only the dead letter's ack ends this, or the loss of the partition."""
        headers = dead_letter_headers(record, error, trouble.attempts, trouble.first_at or datetime.now(UTC))
        topic, key, value, attempt = dead_letter_topic(self._group), record.key, record.value, 0
        while True:
            try:
                async with mailboxes.letters:
                    await self._producer.send_record(topic, key, value, headers)
            except EventTooLarge:
                # Better a letter that says where the record lies than a partition that stands still.
                headers = [(name, text) for name, text in headers if name.startswith(PREFIX)]
                key, value = (key or b"")[:_MAX_KEY], b""
            except SendFailed:
                if not await mailboxes.wait_for_infrastructure(full_jitter(attempt, *_RETRY_SECONDS)):
                    return False
                attempt += 1
            else:
                break
        name = type(error).__name__
        DEAD_LETTERS.labels(self._group, name).inc()
        CONSUMED.labels(self._group, label, "dead_lettered").inc()
        log.error(
            "event put aside", extra=_where(record) | {"type": label, "error": name, "attempts": trouble.attempts}
        )
        return True


def _parse(contract: type[Contract], event: Event) -> Contract:
    try:
        return contract.from_event(event)
    except ValidationError as invalid:
        fields = sorted({".".join(map(str, error["loc"])) for error in invalid.errors(include_input=False)})
        raise MalformedEvent(f"the data is not {event.type}: {', '.join(fields)[:500]}") from None


def _budget(error: Exception) -> Budget:
    if isinstance(error, MalformedEvent):
        return MALFORMED
    return DETERMINISTIC if isinstance(error, (Poison, ValidationError)) else UNCLASSIFIED


def _where(record: KafkaRecord) -> dict[str, object]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
