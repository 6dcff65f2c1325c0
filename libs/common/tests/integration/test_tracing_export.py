"""Spans really leave the process over OTLP; a collector that is gone or says nothing holds nobody up."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanKind

from shop_common import export
from shop_common.settings import TracingSettings
from shop_common.tracing import entry_span, open_tracing, span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


class Collector:
    """Takes what is exported to it; `silent`, it takes the request and never answers; `busy`, it says 503 so often."""

    def __init__(self, *, silent: bool = False, busy: int = 0) -> None:
        self.silent = silent
        self.busy = busy
        self.asked = asyncio.Event()
        self.paths: list[str] = []
        self.exports: list[ExportTraceServiceRequest] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TracingSettings]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield TracingSettings(endpoint=f"http://127.0.0.1:{port}/")
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                body = await reader.readexactly(length)
                self.asked.set()
                if self.silent:
                    continue
                if self.busy:
                    self.busy -= 1
                    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.paths.append(head.split()[1])
                self.exports.append(ExportTraceServiceRequest.FromString(body))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


async def test_what_is_recorded_arrives_with_the_services_name() -> None:
    collector = Collector()
    async with collector.open() as settings, open_tracing(settings, "demo"):
        with entry_span("outer", SpanKind.SERVER, SAMPLED), span("inner", attributes={"k": "v"}):
            pass
        with entry_span("unsampled", SpanKind.SERVER, SAMPLED[:-1] + "0"), span("inner"):
            pass
        async with asyncio.timeout(30):
            await collector.asked.wait()  # within its schedule, not only at the end
    assert set(collector.paths) == {"/v1/traces"}
    resources = [each for export in collector.exports for each in export.resource_spans]
    names = {each.key: each.value.string_value for each in resources[0].resource.attributes}
    assert names["service.name"] == "demo"
    spans = [each for resource in resources for scope in resource.scope_spans for each in scope.spans]
    assert sorted(each.name for each in spans) == ["inner", "outer"]
    inner, outer = sorted(spans, key=lambda each: each.name)
    assert (outer.trace_id.hex(), outer.parent_span_id.hex()) == (TRACE, PARENT)
    assert (inner.trace_id, inner.parent_span_id) == (outer.trace_id, outer.span_id)


async def test_the_last_spans_are_flushed_and_tracing_can_be_opened_again() -> None:
    for name in ("first", "second"):
        collector = Collector()
        async with collector.open() as settings, asyncio.timeout(30):
            async with open_tracing(settings, name):
                with entry_span(name, SpanKind.SERVER, SAMPLED):
                    pass
            [export] = collector.exports
            assert export.resource_spans[0].scope_spans[0].spans[0].name == name


async def test_a_silent_collector_holds_the_end_up_no_longer_than_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "_FLUSH_SECONDS", 0.2)
    collector = Collector(silent=True)
    async with collector.open() as settings:
        async with open_tracing(settings, "demo"):
            with entry_span("lost", SpanKind.SERVER, SAMPLED):
                pass
            async with asyncio.timeout(30):
                await collector.asked.wait()
            before = time.monotonic()
        assert time.monotonic() - before < 1
    assert collector.exports == []


async def test_a_refused_collector_costs_nothing_but_its_spans() -> None:
    async with asyncio.timeout(30), open_tracing(TracingSettings(endpoint="http://127.0.0.1:1"), "demo"):
        with entry_span("lost", SpanKind.SERVER, SAMPLED) as recorded:
            assert recorded is not None


async def test_a_collector_that_is_busy_gets_them_later() -> None:
    collector = Collector(busy=2)
    async with collector.open() as settings, asyncio.timeout(30), open_tracing(settings, "demo"):
        with entry_span("kept", SpanKind.SERVER, SAMPLED):
            pass
        while not collector.exports:  # noqa: ASYNC110 - the collector's side has no event for it
            await asyncio.sleep(0.05)
    assert collector.busy == 0
    assert names(collector) == ["kept"]


async def test_what_is_too_much_is_lost_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector()
    async with collector.open() as settings, open_tracing(settings, "demo"):
        for number in range(2500):
            with entry_span(str(number), SpanKind.SERVER, SAMPLED):
                pass
    assert names(collector) == sorted(str(number) for number in range(2048))
    [lost] = [record for record in caplog.records if record.message == "spans were lost"]
    assert lost.__dict__["spans"] == 2500 - 2048


def names(collector: Collector) -> list[str]:
    """Of the spans that came, in their order by name."""
    resources = [each for export in collector.exports for each in export.resource_spans]
    return sorted(span.name for resource in resources for scope in resource.scope_spans for span in scope.spans)
