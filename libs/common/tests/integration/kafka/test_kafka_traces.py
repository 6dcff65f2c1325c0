"""One trace from who wrote the event, over the relay's send, into the handler; and none where nobody samples."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from shop_common import tracing
from shop_common.events.envelope import Event
from shop_common.events.users import UserUpdated
from shop_common.kafka.producer import open_producer
from shop_common.testing import recorded_spans

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]
TRACE, WRITER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    with recorded_spans() as exporter:
        yield exporter


async def send_and_handle(kafka: Any, wait_until: Until, event: Event) -> tuple[str | None, str | None]:
    """The traceparent in the record's header, and the one current in the handler."""
    topic, seen = await kafka.topic(partitions=1), []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        seen.append((event.traceparent, tracing.current_traceparent()))

    async with open_producer(kafka.settings()) as producer:
        await producer.send(event, topic)
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await wait_until(lambda: len(seen) == 1)
    return seen[0]


async def test_a_sampled_trace_goes_on_in_the_handler(
    kafka: Any, wait_until: Until, user_event: Create, spans: InMemorySpanExporter
) -> None:
    event = user_event().to_event(f"00-{TRACE}-{WRITER}-01")
    sent, current = await send_and_handle(kafka, wait_until, event)

    publish, process = spans.get_finished_spans()
    assert trace.format_trace_id(publish.context.trace_id) == trace.format_trace_id(process.context.trace_id) == TRACE
    assert publish.parent is not None
    assert trace.format_span_id(publish.parent.span_id) == WRITER
    assert process.parent is not None
    assert process.parent.span_id == publish.context.span_id
    assert (publish.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert process.name == "process users.user_updated.v1"
    assert sent == tracing.format_traceparent(publish.context)
    assert current == tracing.format_traceparent(process.context)
    assert process.attributes is not None
    assert process.attributes["messaging.consumer.group.name"] == kafka.group
    assert process.attributes["messaging.message.id"] == str(event.id)


async def test_an_unsampled_trace_keeps_its_text_and_makes_no_span(
    kafka: Any, wait_until: Until, user_event: Create, spans: InMemorySpanExporter
) -> None:
    unsampled = f"00-{TRACE}-{WRITER}-00"
    sent, current = await send_and_handle(kafka, wait_until, user_event().to_event(unsampled))

    assert spans.get_finished_spans() == ()
    assert sent == unsampled
    assert current is not None
    assert current.startswith(f"00-{TRACE}-")
    assert current.endswith("-00")


async def test_an_event_without_a_trace_gets_none(
    kafka: Any, wait_until: Until, user_event: Create, spans: InMemorySpanExporter
) -> None:
    sent, _ = await send_and_handle(kafka, wait_until, user_event().to_event())

    assert sent is None
    assert spans.get_finished_spans() == ()
