"""OpenTelemetry traces: W3C context, sampled by the parent's decision, exported over OTLP in batches.

Whether a request is recorded is decided once, where it enters. Of an unrecorded one only the ids travel on,
since a span that is not recorded still costs most of one that is. So spans are made here, never ambiently.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from shop_common.export import open_exporter
from shop_common.otlp import SCOPE
from shop_common.settings import TracingSettings

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED, _UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
_UNSET: Final = Status()
_NO_ATTRIBUTES: Final[Mapping[str, AttributeValue]] = {}
_current: ContextVar[SpanContext | None] = ContextVar("span_context", default=None)


class _Recorder(NamedTuple):
    processor: SpanProcessor
    resource: Resource


_recorder: _Recorder | None = None


class RecordedSpan:
    """Of the SDK's span what is used here: its sampler, limits and locks are most of its cost."""

    __slots__ = ("_attributes", "_began_ns", "_context", "_kind", "_name", "_parent", "_recorder", "_status")

    def __init__(
        self,
        recorder: _Recorder,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        attributes: Mapping[str, AttributeValue],
        *,
        began_ns: int | None = None,
    ) -> None:
        self._recorder: _Recorder | None = recorder
        self._name = name
        self._kind = kind
        self._parent = parent
        self._context = _new_context(parent, _SAMPLED)
        self._attributes = dict(attributes)
        self._status = _UNSET
        self._began_ns = began_ns or time.time_ns()

    def get_span_context(self) -> SpanContext:
        return self._context

    def update_name(self, name: str) -> None:
        self._name = name

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._attributes.update(attributes)

    def set_status(self, status: Status) -> None:
        self._status = status

    def end(self) -> None:
        """Only the first counts."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        recorder.processor.on_end(
            ReadableSpan(
                self._name,
                self._context,
                self._parent,
                recorder.resource,
                self._attributes,
                kind=self._kind,
                status=self._status,
                start_time=self._began_ns,
                end_time=time.time_ns(),
                instrumentation_scope=SCOPE,
            )
        )


def current_traceparent() -> str | None:
    """The W3C `traceparent` of the work under way, recorded or not; None outside any."""
    current = _current.get()
    return None if current is None else format_traceparent(current)


def current_trace_id() -> str:
    current = _current.get()
    return "" if current is None else format_traceparent(current)[3:35]


def parse_traceparent(text: str | None) -> SpanContext | None:
    """The remote span a `traceparent` names; None if it is absent or malformed, as W3C asks."""
    match = _TRACEPARENT.fullmatch(text) if text and len(text) <= 128 else None  # noqa: PLR2004 - W3C's are 55
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == "00" and more):
        return None
    sampled = TraceFlags(int(flags, 16) & TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=sampled)


def format_traceparent(context: SpanContext) -> str:
    return _traceparent(context.trace_id, context.span_id, context.trace_flags)


@lru_cache(maxsize=64)
def _traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """Asked for several times for each request."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


@contextmanager
def entry_span(
    name: str, kind: SpanKind, incoming: str | None, *, sample_ratio: float = 0.0
) -> Iterator[RecordedSpan | None]:
    """Enter a process: record under the incoming parent if that is sampled, else by `sample_ratio` if there is none.

    Yields None for work that is not recorded; its `traceparent` is still current.
    """
    parent = parse_traceparent(incoming)
    recorded = _enter(name, kind, parent, sample_ratio)
    if recorded is None:
        with _as_current(_unrecorded(parent)):
            yield None
    else:
        with _under_way(recorded):
            yield recorded


def begin_entry(name: str, kind: SpanKind, incoming: str | None, *, sample_ratio: float) -> RecordedSpan | None:
    """As `entry_span`, in a task that ends with its work: the span is the caller's to end."""
    parent = parse_traceparent(incoming)
    recorded = _enter(name, kind, parent, sample_ratio)
    _current.set(recorded.get_span_context() if recorded else _unrecorded(parent))
    return recorded


def record_entry(
    name: str,
    kind: SpanKind,
    incoming: str | None,
    attributes: Mapping[str, AttributeValue],
    *,
    sample_ratio: float,
    began_ns: int,
) -> str:
    """As `entry_span`, of work that is done and called nobody: the id of its trace, empty where it has none."""
    parent = parse_traceparent(incoming)
    recorded = _enter(name, kind, parent, sample_ratio, attributes, began_ns=began_ns)
    if recorded is None:
        return f"{parent.trace_id:032x}" if parent else ""
    recorded.end()
    return f"{recorded.get_span_context().trace_id:032x}"


def _enter(
    name: str,
    kind: SpanKind,
    parent: SpanContext | None,
    sample_ratio: float,
    attributes: Mapping[str, AttributeValue] = _NO_ATTRIBUTES,
    *,
    began_ns: int | None = None,
) -> RecordedSpan | None:
    if _recorder is None:
        return None
    chosen = random.random() < sample_ratio if parent is None else parent.trace_flags.sampled  # noqa: S311 - no secret
    return RecordedSpan(_recorder, name, kind, parent, attributes, began_ns=began_ns) if chosen else None


def _unrecorded(parent: SpanContext | None) -> SpanContext:
    if parent is not None and parent.trace_flags.sampled:
        return parent  # nothing records here: what is recorded further on is a child of what was before
    return _new_context(parent, _UNSAMPLED)


def _new_context(parent: SpanContext | None, flags: TraceFlags) -> SpanContext:
    trace_id = parent.trace_id if parent else random.getrandbits(128) or 1
    return SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=flags)


@contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Mapping[str, AttributeValue] = _NO_ATTRIBUTES
) -> Iterator[RecordedSpan | None]:
    """A child of the work under way; costs nothing and yields None where that is not recorded."""
    child = begin_span(name, kind, attributes)
    if child is None:
        yield None
    else:
        with _under_way(child):
            yield child


def begin_span(name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> RecordedSpan | None:
    """A child whose end comes in another call: the caller's to end. None where the work is not recorded."""
    parent = _current.get()
    if _recorder is None or parent is None or not parent.trace_flags.sampled:
        return None
    return RecordedSpan(_recorder, name, kind, parent, attributes)


@contextmanager
def _under_way(recorded: RecordedSpan) -> Iterator[None]:
    try:
        with _as_current(recorded.get_span_context()):
            yield
    except (Exception, asyncio.CancelledError) as error:
        mark_failed(recorded, error)
        raise
    finally:
        recorded.end()


def mark_failed(recorded: RecordedSpan, error: BaseException | None) -> None:
    """None: it was cancelled."""
    if error is None or isinstance(error, asyncio.CancelledError):
        recorded.set_status(Status(StatusCode.ERROR, "cancelled"))
    else:
        # The message may quote what a client sent: only the type goes into the trace.
        recorded.set_status(Status(StatusCode.ERROR, type(error).__name__))
        recorded.set_attribute("error.type", type(error).__qualname__)


@contextmanager
def _as_current(context: SpanContext) -> Iterator[None]:
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def recording_by(processor: SpanProcessor, resource: Resource) -> Iterator[None]:
    """Give this process's spans, as those of `resource`, to `processor` for a while.

    Not by the global provider: FastAPI and redis-py would record by that on their own account.
    """
    global _recorder  # noqa: PLW0603 - what a process exports to is the process's
    before, _recorder = _recorder, _Recorder(processor, resource)
    try:
        yield
    finally:
        _recorder = before


@asynccontextmanager
async def open_tracing(settings: TracingSettings, service: str) -> AsyncIterator[None]:
    """Export this process's spans as `service` until closed; the last flush takes at most 3 s."""
    if not settings.endpoint:
        yield
        return
    resource = Resource.create({"service.name": service})
    async with open_exporter(settings.endpoint, resource) as exporter:
        with recording_by(exporter, resource):
            yield
