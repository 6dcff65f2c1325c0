"""Trace context in and out, the decision to record, and what a span says of a failure."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind, StatusCode

from shop_common import tracing
from shop_common.settings import TracingSettings
from shop_common.testing import recorded_spans
from shop_common.tracing import (
    begin_entry,
    begin_span,
    current_trace_id,
    current_traceparent,
    entry_span,
    format_traceparent,
    open_tracing,
    parse_traceparent,
    record_entry,
    span,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_formatted_can_be_parsed(trace_id: int, span_id: int, sampled: bool) -> None:  # noqa: FBT001 - hypothesis'
    text = f"00-{trace_id:032x}-{span_id:016x}-{sampled:02x}"
    parsed = parse_traceparent(text)
    assert parsed is not None
    assert (parsed.trace_id, parsed.span_id, parsed.is_remote) == (trace_id, span_id, True)
    assert parsed.trace_flags.sampled == sampled
    assert format_traceparent(parsed) == text


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"00-{TRACE}-{PARENT}-02", False),
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-adds", True),
    ],
)
def test_later_flags_and_versions_are_read_as_far_as_known(text: str, sampled: bool) -> None:  # noqa: FBT001 - a parameter
    parsed = parse_traceparent(text)
    assert parsed is not None
    assert parsed.trace_flags.sampled is sampled
    assert format_traceparent(parsed).endswith("-01" if sampled else "-00")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f" {SAMPLED}",
        f"{SAMPLED}\n",
        f"cc-{TRACE}-{PARENT}-01-{'x' * 100}",
    ],
)
def test_what_w3c_forbids_is_no_parent(text: str | None) -> None:
    assert parse_traceparent(text) is None


@given(st.text(max_size=200) | st.text("0123456789abcdef-", max_size=80))
def test_garbage_never_raises(text: str) -> None:
    parsed = parse_traceparent(text)
    assert parsed is None or parsed.is_valid


def test_outside_any_work_there_is_no_trace() -> None:
    assert (current_traceparent(), current_trace_id()) == (None, "")


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_parents_decision_stands_whatever_the_ratio(ratio: float) -> None:
    with recorded_spans() as spans:
        for _ in range(20):
            with entry_span("in", SpanKind.SERVER, UNSAMPLED, sample_ratio=ratio) as unsampled:
                assert unsampled is None
        assert spans.get_finished_spans() == ()
        with entry_span("in", SpanKind.SERVER, SAMPLED, sample_ratio=ratio) as sampled:
            assert sampled is not None
        assert len(spans.get_finished_spans()) == 1


@pytest.mark.parametrize(("ratio", "recorded"), [(0.0, 0), (1.0, 50)])
def test_without_a_parent_the_ratio_decides(ratio: float, recorded: int) -> None:
    with recorded_spans() as spans:
        for _ in range(50):
            with entry_span("in", SpanKind.SERVER, "garbage", sample_ratio=ratio):
                parent = parse_traceparent(current_traceparent())
                assert parent is not None
                assert parent.trace_flags.sampled == bool(recorded)
        assert len(spans.get_finished_spans()) == recorded


def test_an_unsampled_trace_goes_on_under_its_id_with_a_new_span_id() -> None:
    with entry_span("in", SpanKind.SERVER, UNSAMPLED):
        text = current_traceparent()
        assert text is not None
        version, trace_id, span_id, flags = text.split("-")
        assert (version, trace_id, flags) == ("00", TRACE, "00")
        assert span_id != PARENT
        assert current_trace_id() == TRACE
        with span("inner") as inner:
            assert inner is None
            assert current_traceparent() == text
    assert current_traceparent() is None


def test_spans_nest_and_keep_their_attributes() -> None:
    with recorded_spans() as spans, entry_span("outer", SpanKind.SERVER, SAMPLED):
        with span("inner", SpanKind.CLIENT, {"db.system.name": "demo"}):
            pass
        begun = begin_span("begun", SpanKind.CLIENT, {"k": 1})
        assert begun is not None
        begun.end()
    inner, begun_span, outer = spans.get_finished_spans()
    assert inner.parent is not None
    assert begun_span.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == begun_span.parent.span_id == outer.context.span_id
    assert (inner.name, inner.kind, inner.attributes) == ("inner", SpanKind.CLIENT, {"db.system.name": "demo"})
    assert begun_span.attributes == {"k": 1}


def test_nothing_is_begun_where_nothing_is_recorded() -> None:
    assert begin_span("begun", SpanKind.CLIENT, {}) is None


def test_a_failure_leaves_its_type_and_not_its_message() -> None:
    with (
        recorded_spans() as spans,
        entry_span("in", SpanKind.SERVER, SAMPLED),
        pytest.raises(ValueError, match="taken"),
        span("fails"),
    ):
        raise ValueError("alice@example.com is taken")
    failed, outer = spans.get_finished_spans()
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ValueError")
    assert failed.attributes == {"error.type": "ValueError"}
    assert failed.events == ()
    assert "alice" not in failed.to_json()
    assert outer.status.status_code is StatusCode.UNSET


def test_a_cancellation_is_marked() -> None:
    with (
        recorded_spans() as spans,
        entry_span("in", SpanKind.SERVER, SAMPLED),
        pytest.raises(asyncio.CancelledError),
        span("cancelled"),
    ):
        raise asyncio.CancelledError
    assert spans.get_finished_spans()[0].status.description == "cancelled"


def test_what_a_span_is_told_it_says_once_when_it_ends() -> None:
    shared = {"db.system.name": "demo"}
    with recorded_spans() as spans, entry_span("in", SpanKind.SERVER, SAMPLED):
        begun = begin_span("begun", SpanKind.CLIENT, shared)
        assert begun is not None
        begun.update_name("renamed")
        begun.set_attribute("long", "x" * 100_000)
        begun.set_attributes({"k": 1, "db.system.name": "other"})
        assert spans.get_finished_spans() == ()
        begun.end()
        begun.end()
        [ended] = spans.get_finished_spans()
    assert ended.name == "renamed"
    assert ended.attributes == {"db.system.name": "other", "long": "x" * 100_000, "k": 1}
    assert shared == {"db.system.name": "demo"}
    assert ended.start_time is not None
    assert ended.end_time is not None
    assert ended.start_time <= ended.end_time


def test_work_that_is_done_is_recorded_from_when_it_began() -> None:
    with recorded_spans() as spans:
        trace_id = record_entry("in", SpanKind.SERVER, SAMPLED, {"k": 1}, sample_ratio=0, began_ns=7)
        assert record_entry("in", SpanKind.SERVER, UNSAMPLED, {}, sample_ratio=1, began_ns=7) == TRACE
        assert record_entry("in", SpanKind.SERVER, None, {}, sample_ratio=0, began_ns=7) == ""
    [recorded] = spans.get_finished_spans()
    assert (trace_id, recorded.start_time, recorded.attributes) == (TRACE, 7, {"k": 1})
    assert recorded.parent == parse_traceparent(SAMPLED)


async def test_without_an_endpoint_nothing_is_opened() -> None:
    before = tracing._recorder
    async with open_tracing(TracingSettings(endpoint=""), "demo"):
        assert tracing._recorder is before


def test_where_nothing_records_a_sampled_trace_is_passed_on_unrecorded() -> None:
    with entry_span("in", SpanKind.SERVER, SAMPLED, sample_ratio=1) as recorded:
        assert recorded is None
        assert current_traceparent() == SAMPLED
        assert begin_span("begun", SpanKind.CLIENT, {}) is None
        with span("inner") as inner:
            assert inner is None
            assert current_traceparent() == SAMPLED


async def test_where_nothing_records_an_entry_without_a_parent_has_ids_of_its_own() -> None:
    async def entered() -> str | None:
        assert begin_entry("in", SpanKind.SERVER, None, sample_ratio=1) is None
        return current_traceparent()

    seen = {await asyncio.create_task(entered()) for _ in range(2)}
    with entry_span("in", SpanKind.SERVER, None, sample_ratio=1):
        seen.add(current_traceparent())
    contexts = [parse_traceparent(text) for text in seen]
    assert [context and context.trace_flags.sampled for context in contexts] == [False] * 3
