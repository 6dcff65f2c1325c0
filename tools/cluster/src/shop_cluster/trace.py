"""One request followed through every process: made here with a known trace id, drawn as a tree from Jaeger's spans."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shop_cluster.gateway_client import Gateway, Json, new_traceparent, wait_for
from shop_cluster.ports import HOST
from shop_cluster.seed import items_of, log_in_demo_user
from shop_cluster.state import State

# The services a request passes on its longest way, in that order: a trace is whole when one span descends through all.
ORDER_WAY = ("gateway", "orders", "orders-worker", "users-worker")
DEACTIVATION_WAY = ("gateway", "users", "users-worker", "orders-worker", "users-worker")
TRACE_SECONDS = 30
BAR_WIDTH = 28
COLOURS = {"gateway": "cyan", "users": "green", "users-worker": "bright_green", "orders": "magenta"}


@dataclass(slots=True)
class Span:
    """One span; times in microseconds, `start` since the trace's beginning."""

    id: str
    parent: str | None
    service: str
    name: str
    start: int
    duration: int
    failed: bool
    children: list["Span"] = field(default_factory=list)


def place_traced_order(state: State) -> str:
    """The demo user places an order; returns the trace's id."""
    with Gateway(state) as gateway:
        log_in_demo_user(state, gateway)
        trace_id, gateway.traceparent = new_traceparent()
        gateway.place_order(items_of([("postcard", 3, 120)]))
    return trace_id


def deactivate_traced_user(state: State) -> str:
    """A throw-away user with a confirmed order is deactivated; returns the trace's id of the deactivation."""
    name, password = f"leaver-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    with Gateway(state) as gateway:
        user = gateway.register(f"{name}@example.com", name, password)
        gateway.log_in(f"{name}@example.com", password)
        order = gateway.place_order(items_of([("postcard", 1, 120)]))
        gateway.wait_for_order(order["id"], "confirmed")
        etag = gateway.etag(f"/v1/users/{user['id']}")
        trace_id, gateway.traceparent = new_traceparent()
        gateway.deactivate(user["id"], etag)
    return trace_id


def fetch_spans(jaeger_url: str, trace_id: str) -> list[Span]:
    """All spans Jaeger has of a trace by now, earliest first; empty when it has none."""
    response = httpx.get(f"{jaeger_url}/api/traces/{trace_id}", timeout=5, trust_env=False)
    if response.status_code == httpx.codes.NOT_FOUND:
        return []
    trace: Json = response.raise_for_status().json()["data"][0]
    begin = min(span["startTime"] for span in trace["spans"])
    spans = [
        Span(
            id=span["spanID"],
            parent=next((ref["spanID"] for ref in span["references"]), None),
            service=trace["processes"][span["processID"]]["serviceName"],
            name=span["operationName"],
            start=span["startTime"] - begin,
            duration=span["duration"],
            failed=any(tag["key"] == "error" and tag["value"] is True for tag in span["tags"]),
        )
        for span in trace["spans"]
    ]
    return sorted(spans, key=lambda span: span.start)


def passes(spans: Sequence[Span], way: Sequence[str]) -> bool:
    """Whether some span descends through the services of `way`, in that order."""
    by_id = {span.id: span for span in spans}
    for span in spans:
        left = list(way)
        node: Span | None = span
        while node and left:
            if node.service == left[-1]:
                left.pop()
            node = by_id.get(node.parent or "")
        if not left:
            return True
    return False


def wait_for_trace(state: State, trace_id: str, way: Sequence[str]) -> list[Span]:
    """The spans of a trace once it is whole."""
    spans: list[Span] = []

    def is_whole() -> bool:
        spans[:] = fetch_spans(f"http://{HOST}:{state.ports['jaeger']}", trace_id)
        return passes(spans, way)

    wait_for(is_whole, f"Jaeger has no trace {trace_id} through {' → '.join(way)}", seconds=TRACE_SECONDS)
    return spans


def draw(console: Console, spans: Sequence[Span], title: str) -> None:
    """The tree with each span's service, duration, and its place in time as a bar."""
    by_id = {span.id: span for span in spans}
    roots: list[Span] = []
    for span in spans:
        (by_id[span.parent].children if span.parent in by_id else roots).append(span)
    end = max(span.start + span.duration for span in spans)
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), header_style="dim")
    for header, right in (("span", False), ("service", False), ("ms", True), (f"0 … {end / 1000:.0f} ms", False)):
        table.add_column(header, justify="right" if right else "left", no_wrap=header != "span")
    for root in roots:
        _draw(table, root, "", end)
    console.print(table)


def _draw(table: Table, span: Span, indent: str, end: int) -> None:
    left = round(span.start / end * BAR_WIDTH)
    bar = max(1, round(span.duration / end * BAR_WIDTH))
    style = "red" if span.failed else COLOURS.get(span.service, "bright_magenta")
    table.add_row(
        Text(f"{indent}{span.name}"),
        Text(span.service, style=style),
        f"{span.duration / 1000:.1f}",
        Text(" " * min(left, BAR_WIDTH - 1) + "█" * min(bar, BAR_WIDTH - min(left, BAR_WIDTH - 1)), style=style),
    )
    for child in span.children:
        _draw(table, child, indent + "  ", end)
