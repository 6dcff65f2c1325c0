"""Sending events: acked by all replicas, within a deadline, through a producer that is replaced when in doubt.

An idempotent aiokafka producer whose send timed out or was refused may be wedged for good (aio-libs/aiokafka#1017), and
what became of its batch is unknown. So it is thrown away, and the caller sends again through a new one: at least once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from shop_common.events.envelope import MAX_DATA_BYTES, Event, Headers
from shop_common.kafka.backoff import full_jitter, happens_within
from shop_common.kafka.discard import discard_producer
from shop_common.kafka.settings import KafkaSettings
from shop_common.metrics import from_zero
from shop_common.tracing import current_traceparent, entry_span

log = logging.getLogger(__name__)

SENDS = Counter("shop_kafka_sends_total", "Records sent", ["topic", "outcome"])
SEND_SECONDS = Histogram("shop_kafka_send_seconds", "Seconds from handing over to ack", ["topic"])
REBUILDS = Counter("shop_kafka_producer_rebuilds_total", "Producers thrown away", ["reason"])
from_zero(REBUILDS, "timeout")

_LINGER_MS: Final = 5
_MAX_RECORD_BYTES: Final = 2 * 1024 * 1024
"""Of a dead letter, which is a record of up to 1 MiB and its story."""
_BACKOFF_SECONDS: Final = (0.2, 5.0)
_CONNECT_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 5.0


class SendFailed(ConnectionError):
    """No ack: the record may be in the log or not. Send it again."""


class EventTooLarge(ValueError):
    """The record is larger than the topic takes; sending it again will not help."""


class EventProducer:
    """Made by `open_producer`; starts with no broker in reach, and connects in the background."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._connecting: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def send(self, event: Event, topic: str) -> None:
        """Return once the event is acked. Raises SendFailed or EventTooLarge."""
        if len(event.data) > MAX_DATA_BYTES:
            raise EventTooLarge(f"{event.type} {event.id} has {len(event.data)} bytes, more than {MAX_DATA_BYTES}")
        with entry_span(f"publish {topic}", SpanKind.PRODUCER, event.traceparent) as span:
            if span is None:  # what is not recorded keeps the ids it came with
                await self.send_record(topic, *event.to_kafka())
                return
            span.set_attributes(
                {
                    "messaging.system": "kafka",
                    "messaging.operation.type": "send",
                    "messaging.destination.name": topic,
                    "messaging.message.id": str(event.id),
                    "shop.event.type": event.type,
                }
            )
            await self.send_record(topic, *event.to_kafka(current_traceparent()))

    async def send_record(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Return once the record is acked. Raises SendFailed or EventTooLarge."""
        started = perf_counter()
        producer: Any = None
        try:
            async with asyncio.timeout(self._settings.send_timeout_seconds):
                producer = await self._connected()
                await producer.send_and_wait(topic, value=value, key=key, headers=headers)
        except TimeoutError as error:
            SENDS.labels(topic, "timeout").inc()
            self._discard(producer, "timeout")
            raise SendFailed(f"no ack for {topic} in {self._settings.send_timeout_seconds} s") from error
        except MessageSizeTooLargeError as error:
            SENDS.labels(topic, "too_large").inc()
            self._discard(producer, "too_large")
            raise EventTooLarge(f"{topic} takes no record of this size") from error
        except SendFailed:
            raise
        except (KafkaError, OSError) as error:
            SENDS.labels(topic, "error").inc()
            if not getattr(error, "retriable", False):
                self._discard(producer, type(error).__name__)
            raise SendFailed(f"{topic}: {type(error).__name__}") from error
        SENDS.labels(topic, "acked").inc()
        SEND_SECONDS.labels(topic).observe(perf_counter() - started)

    async def ready(self) -> None:
        """Raises where there is no connection, or the broker does not answer in half a second; for `/readyz`."""
        if self._producer is None:
            raise SendFailed("not connected to Kafka")
        async with asyncio.timeout(0.5):
            await self._producer.client.fetch_all_metadata()

    async def _connected(self) -> Any:
        while self._producer is None:
            if self._closing.is_set():
                raise SendFailed("the producer is closed")
            await asyncio.shield(self.connect())
        return self._producer

    def connect(self) -> asyncio.Task[None]:
        """The one task that connects, begun here if there is none."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        attempt = 0
        while self._producer is None and not self._closing.is_set():
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.bootstrap_servers,
                client_id=self._settings.client_id,
                request_timeout_ms=self._settings.request_timeout_ms,
                acks="all",
                enable_idempotence=True,
                linger_ms=_LINGER_MS,
                max_request_size=_MAX_RECORD_BYTES,
            )
            try:
                # aiokafka bounds each step itself, and leaks a socket where a step is cancelled: this comes later.
                async with asyncio.timeout(2 * self._settings.request_timeout_ms / 1000):
                    await producer.start()
            except (KafkaError, OSError) as error:
                log.warning("Kafka producer cannot connect", extra={"error": type(error).__name__, "attempt": attempt})
                await discard_producer(producer)
                await happens_within(self._closing, full_jitter(attempt, *_BACKOFF_SECONDS))
                attempt += 1
            except BaseException:
                await discard_producer(producer)
                raise
            else:
                self._producer = producer

    def _discard(self, producer: Any, reason: str) -> None:
        """Throw this producer away, once, however many sends failed on it."""
        if producer is None or producer is not self._producer:
            return
        log.warning("Kafka producer is replaced", extra={"reason": reason})
        REBUILDS.labels(reason).inc()
        self._producer = None
        task = asyncio.create_task(discard_producer(producer))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)
        self.connect()

    async def close(self) -> None:
        """Flush for a few seconds at most, then let go."""
        self._closing.set()
        if self._connecting is not None:
            await asyncio.wait([self._connecting], timeout=_CONNECT_SECONDS)
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await producer.flush()
            except (KafkaError, OSError):
                log.warning("Kafka producer closed with records not acked")
            await discard_producer(producer)
        if self._discarding:
            await asyncio.wait(self._discarding, timeout=_STOP_SECONDS)


@asynccontextmanager
async def open_producer(settings: KafkaSettings) -> AsyncIterator[EventProducer]:
    """A producer that connects in the background; closed within about ten seconds."""
    producer = EventProducer(settings)
    producer.connect()
    try:
        yield producer
    finally:
        await producer.close()
