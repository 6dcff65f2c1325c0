"""What leaves the process is what OpenTelemetry's own encoder would have made of it."""

import itertools

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from shop_common.otlp import SCOPE, SpanEncoder

RESOURCE = Resource({"service.name": "demo", "process.command_args": ["a", "b"]}, schema_url="https://schema.example")
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
PARENTS = [
    None,
    SpanContext(2**128 - 1, 1, is_remote=False, trace_flags=SAMPLED),
    SpanContext(1, 2**64 - 1, is_remote=True, trace_flags=SAMPLED),
]
STATUSES = [
    Status(),
    Status(StatusCode.OK),
    Status(StatusCode.ERROR),
    Status(StatusCode.ERROR, "ValueError"),
]
ATTRIBUTES: list[dict[str, AttributeValue]] = [
    {},
    {"text": "sch\u00f6n \U0001f600", "empty": "", "long": "x" * 100_000},
    {"yes": True, "no": False},
    {"one": 1, "none": 0, "least": -(2**63), "most": 2**63 - 1},
    {"half": 0.5, "zero": 0.0, "whole": 1.0, "endless": float("-inf")},
    {"texts": ["a", "b"], "numbers": (1, 2), "nothing": []},
]


def made(
    kind: SpanKind, parent: SpanContext | None, status: Status, attributes: dict[str, AttributeValue]
) -> ReadableSpan:
    context = SpanContext(parent.trace_id if parent else 7, 2**63, is_remote=False, trace_flags=SAMPLED)
    return ReadableSpan(
        f"of {kind.name}",
        context,
        parent,
        RESOURCE,
        attributes,
        kind=kind,
        status=status,
        start_time=1_700_000_000_000_000_001,
        end_time=1_700_000_000_000_000_002,
        instrumentation_scope=SCOPE,
    )


SPANS = [made(*each) for each in itertools.product(SpanKind, PARENTS, STATUSES, ATTRIBUTES)]


def test_every_kind_of_span_is_encoded_as_by_opentelemetry() -> None:
    assert ExportTraceServiceRequest.FromString(SpanEncoder(RESOURCE).encode(SPANS)) == encode_spans(SPANS)


@pytest.mark.parametrize("resource", [Resource.get_empty(), Resource.create({"service.name": "demo"})])
def test_so_is_every_resource(resource: Resource) -> None:
    span = ReadableSpan("in", PARENTS[1], resource=resource, instrumentation_scope=SCOPE, start_time=1, end_time=2)
    assert ExportTraceServiceRequest.FromString(SpanEncoder(resource).encode([span])) == encode_spans([span])


def test_one_request_behind_another_is_one_of_both() -> None:
    encoder = SpanEncoder(RESOURCE)
    both = ExportTraceServiceRequest.FromString(encoder.encode(SPANS[:3]) + encoder.encode(SPANS[3:5]))
    sent = [span for each in both.resource_spans for scope in each.scope_spans for span in scope.spans]
    assert sent == list(encode_spans(SPANS[:5]).resource_spans[0].scope_spans[0].spans)
    assert [each.resource for each in both.resource_spans] == [encode_spans(SPANS).resource_spans[0].resource] * 2
