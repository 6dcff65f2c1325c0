"""The tree of a trace, and when it is whole."""

from io import StringIO

from rich.console import Console

from shop_cluster.trace import ORDER_WAY, Span, draw, passes


def span(name: str, service: str, parent: str | None, start: int = 0, *, failed: bool = False) -> Span:
    return Span(id=name, parent=parent, service=service, name=name, start=start, duration=1000, failed=failed)


WHOLE = [
    span("POST", "gateway", None),
    span("insert", "orders", "POST", 100),
    span("publish", "orders-worker", "insert", 2000),
    span("process", "users-worker", "publish", 3000),
]


def test_a_trace_is_whole_when_one_span_descends_through_every_service() -> None:
    assert passes(WHOLE, ORDER_WAY)
    assert not passes(WHOLE[:3], ORDER_WAY)


def test_a_trace_that_lost_its_thread_is_not_whole() -> None:
    orphaned = [*WHOLE[:3], span("process", "users-worker", "never arrived", 3000)]
    assert not passes(orphaned, ORDER_WAY)


def test_the_way_must_be_passed_in_its_order() -> None:
    assert not passes(WHOLE, ("users-worker", "gateway"))


def test_drawing_indents_children_and_shows_orphans_too() -> None:
    out = StringIO()
    draw(Console(file=out, width=120), [*WHOLE, span("lost", "users", "gone", 10)], "an order")
    lines = {line.split()[0]: line for line in out.getvalue().splitlines() if line.strip()}
    indents = [
        len(lines[name]) - len(lines[name].lstrip()) for name in ("POST", "insert", "publish", "process", "lost")
    ]
    assert indents == [1, 3, 5, 7, 1]
