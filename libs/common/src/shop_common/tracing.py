"""OpenTelemetry traces: W3C context, sampled by the parent's decision, exported over OTLP in batches.

Whether a request is recorded is decided once, where it enters. Of an unrecorded one only the ids travel on,
since a span that is not recorded still costs most of one that is. So spans are made here, never ambiently.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from shop_common.export import open_exporter
from shop_common.settings import TracingSettings

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_current: ContextVar[SpanContext | None] = ContextVar("span_context", default=None)
_tracer: Tracer = trace.NoOpTracer()


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
def entry_span(name: str, kind: SpanKind, incoming: str | None, *, sample_ratio: float = 0.0) -> Iterator[Span | None]:
    """Enter a process: record under the incoming parent if that is sampled, else by `sample_ratio` if there is none.

    Yields None for work that is not recorded; its `traceparent` is still current.
    """
    parent = parse_traceparent(incoming)
    if _is_wanted(parent, sample_ratio):
        with _recorded(name, kind, parent) as span:
            yield span
    else:
        with _as_current(_unrecorded(parent)):
            yield None


def begin_entry(name: str, kind: SpanKind, incoming: str | None, *, sample_ratio: float) -> Span | None:
    """As `entry_span`, in a task that ends with its work: the span is the caller's to end."""
    parent = parse_traceparent(incoming)
    recorded = _start(name, kind, parent, None) if _is_wanted(parent, sample_ratio) else None
    _current.set(recorded.get_span_context() if recorded else _unrecorded(parent))
    return recorded


def _unrecorded(parent: SpanContext | None) -> SpanContext:
    trace_id = parent.trace_id if parent else random.getrandbits(128) or 1
    return SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False)


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
    if not _is_wanted(parent, sample_ratio):
        return f"{parent.trace_id:032x}" if parent else ""
    recorded = _start(name, kind, parent, attributes, began_ns)
    recorded.end()
    return f"{recorded.get_span_context().trace_id:032x}"


def _is_wanted(parent: SpanContext | None, sample_ratio: float) -> bool:
    if parent is not None:
        return parent.trace_flags.sampled
    return random.random() < sample_ratio  # noqa: S311 - chooses what to look at


@contextmanager
def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Mapping[str, AttributeValue] | None = None
) -> Iterator[Span | None]:
    """A child of the work under way; costs nothing and yields None where that is not recorded."""
    parent = _recorded_parent()
    if parent is None:
        yield None
        return
    with _recorded(name, kind, parent, attributes) as child:
        yield child


def begin_span(name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> Span | None:
    """A child whose end comes in another call: the caller's to end. None where the work is not recorded."""
    parent = _recorded_parent()
    return _start(name, kind, parent, attributes) if parent else None


def _recorded_parent() -> SpanContext | None:
    parent = _current.get()
    return parent if parent is not None and parent.trace_flags.sampled else None


def _start(
    name: str,
    kind: SpanKind,
    parent: SpanContext | None,
    attributes: Mapping[str, AttributeValue] | None,
    began_ns: int | None = None,
) -> Span:
    # An empty context rather than none: no ambient span may become the parent.
    context = trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
    return _tracer.start_span(name, context, kind, attributes, start_time=began_ns)


@contextmanager
def _recorded(
    name: str,
    kind: SpanKind,
    parent: SpanContext | None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    recorded = _start(name, kind, parent, attributes)
    try:
        with _as_current(recorded.get_span_context()):
            yield recorded
    except (Exception, asyncio.CancelledError) as error:
        mark_failed(recorded, error)
        raise
    finally:
        recorded.end()


def mark_failed(recorded: Span, error: BaseException | None) -> None:
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
def recording_by(provider: TracerProvider) -> Iterator[None]:
    """Make this process's spans by `provider` for a while.

    Not the global provider: that can be set but once, and FastAPI and redis-py would record by it on their own account.
    """
    global _tracer  # noqa: PLW0603 - what a process exports to is the process's
    before, _tracer = _tracer, provider.get_tracer("shop")
    try:
        yield
    finally:
        _tracer = before


@asynccontextmanager
async def open_tracing(settings: TracingSettings, service: str) -> AsyncIterator[None]:
    """Export this process's spans as `service` until closed; the last flush takes at most 3 s."""
    if not settings.endpoint:
        yield
        return
    resource = Resource.create({"service.name": service})
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    async with open_exporter(settings.endpoint) as exporter:
        provider.add_span_processor(exporter)
        with recording_by(provider):
            yield
