"""Orders by themselves: ids, totals, moves, events, and what a user's state asks of them."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop_common.events.contracts import parse
from shop_common.events.envelope import event_id
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderState, OrderStatus
from shop_orders.errors import MixedCurrencies, OrderStateConflict
from shop_orders.models import MOVES, Order, User, create_order, due_move

NOW = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)
USER = "0d0c9a3e-5f0f-4f6e-9d70-3a1f8d2f6a11"
STATUSES: tuple[OrderStatus, ...] = get_args(OrderStatus)
LEGAL = {
    ("pending", "confirmed"),
    ("confirmed", "paid"),
    ("pending", "cancelled"),
    ("confirmed", "cancelled"),
    ("pending", "rejected"),
}


def item(sku: str = "TEA", quantity: int = 1, amount: int = 5, currency: str = "EUR") -> OrderItem:
    return OrderItem(sku=sku, quantity=quantity, unit_price=Money(amount=amount, currency=currency))


def order(status: OrderStatus = "pending", *items: OrderItem) -> Order:
    placed = create_order(USER, "key", items or (item(),), NOW)
    path: dict[OrderStatus, tuple[OrderStatus, ...]] = {"pending": (), "paid": ("confirmed", "paid")}
    for step in path.get(status, (status,)):
        placed = placed.moved(step, NOW)
    return placed


items = st.builds(
    item, st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), st.integers(1, 1000), st.integers(0, 10**9)
)


@given(st.lists(items, min_size=1, max_size=100))
def test_the_total_is_the_sum_of_its_items(some: list[OrderItem]) -> None:
    total = create_order(USER, "key", some, NOW).total
    assert total.amount == sum(one.unit_price.amount * one.quantity for one in some)
    assert total.currency == "EUR"
    assert total.amount < 2**53


def test_the_id_is_of_the_user_and_the_key() -> None:
    assert order().id == str(uuid.uuid5(uuid.UUID(USER), "key"))
    assert create_order(USER, "other", [item()], NOW).id != order().id
    assert create_order(str(uuid.uuid4()), "key", [item()], NOW).id != order().id


@given(items, items)
def test_the_fingerprint_is_of_the_request(one: OrderItem, other: OrderItem) -> None:
    def fingerprint(*some: OrderItem) -> bytes:
        return create_order(USER, "key", some, NOW + timedelta(days=1)).fingerprint

    assert fingerprint(one, other) == fingerprint(one.model_copy(), other.model_copy())
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert (fingerprint(one, other) == fingerprint(other, one)) == (one == other)
    assert fingerprint(one) != fingerprint(one, one)


def test_prices_in_two_currencies_are_no_order() -> None:
    with pytest.raises(MixedCurrencies) as refused:
        create_order(USER, "key", [item(), item(currency="USD")], NOW)
    assert refused.value.pointer == "#/items"


@pytest.mark.parametrize("start", STATUSES)
@pytest.mark.parametrize("to", sorted(MOVES))
def test_only_legal_moves_are_made(start: OrderStatus, to: OrderStatus) -> None:
    before, later = order(start), NOW + timedelta(seconds=1)
    if (start, to) not in LEGAL:
        with pytest.raises(OrderStateConflict, match=f"{start} cannot become {to}"):
            before.moved(to, later)
        return
    after = before.moved(to, later)
    assert (after.status, after.version, after.updated_at) == (to, before.version + 1, later)
    assert (after.created_at, after.items, after.total) == (before.created_at, before.items, before.total)


def test_nothing_leads_back_to_pending() -> None:
    assert "pending" not in MOVES


@pytest.mark.parametrize("status", STATUSES)
def test_every_state_has_its_event_with_the_full_state(status: OrderStatus) -> None:
    subject = order(status, item("A", 2, 3), item("B", 1, 1))
    event = subject.to_event("00-trace")
    name = "placed" if status == "pending" else status
    assert event.type == f"orders.order_{name}.v1"
    assert (event.id, event.key, event.sequence) == (event_id(subject.id, subject.version), USER, subject.version)
    assert (event.time, event.traceparent) == (NOW, "00-trace")
    data = parse(event)
    assert isinstance(data, OrderState)
    assert (data.status, data.total, data.items) == (status, subject.total, subject.items)


@pytest.mark.parametrize("status", STATUSES)
def test_what_a_user_asks_of_an_order(status: OrderStatus) -> None:
    assert due_move(status, None) is None
    assert due_move(status, User(USER, is_active=True, version=1)) == ("confirmed" if status == "pending" else None)
    expected = "cancelled" if status in {"pending", "confirmed"} else None
    assert due_move(status, User(USER, is_active=False, version=2)) == expected
