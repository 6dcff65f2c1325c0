"""Cursors that were changed are refused, and pages through a changing list lose nothing and repeat nothing."""

import base64
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from pydantic import SecretStr

from interleave.documents import AtOnce, Database
from shop_common.cursors import BadCursor, CursorCodec
from shop_common.errors import BadRequest
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.mongo import Database as MotorDatabase
from shop_common.tokens import Principal
from shop_orders.models import Order, create_order
from shop_orders.service import OrderService
from shop_orders.store.orders import COLLECTION, OrderStore
from shop_orders.store.users import UserReplica

CODEC = CursorCodec("orders", SecretStr("k" * 32))
START = datetime(2026, 1, 1, tzinfo=UTC)
USER = UUID(int=1)
ITEMS = (OrderItem(sku="TEA", quantity=1, unit_price=Money(amount=100, currency="EUR")),)
PROFILE = settings(max_examples=150, deadline=None, derandomize=True, database=None)

positions = st.tuples(st.datetimes(timezones=st.just(UTC)), st.uuids().map(str))
filters = st.dictionaries(st.sampled_from(["user_id", "status"]), st.none() | st.text(max_size=10))


@given(position=positions, filters=filters)
@PROFILE
def test_a_cursor_comes_back(position: tuple[datetime, str], filters: dict[str, str | None]) -> None:
    assert CODEC.decode(CODEC.encode(position, filters), filters) == position


@given(position=positions, filters=filters, data=st.data())
@PROFILE
def test_no_bit_can_be_changed(position: tuple[datetime, str], filters: dict[str, str | None], data: Any) -> None:
    cursor = CODEC.encode(position, filters)
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refuse(base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), filters)


@given(first=positions, second=positions, filters=filters, cut=st.integers(0, 200))
@PROFILE
def test_two_cursors_make_no_third(
    first: tuple[datetime, str], second: tuple[datetime, str], filters: dict[str, str | None], cut: int
) -> None:
    one, other = CODEC.encode(first, filters), CODEC.encode(second, filters)
    made = one[:cut] + other[cut:]
    if made not in {one, other}:
        refuse(made, filters)


@given(position=positions, filters=filters, others=filters)
@PROFILE
def test_a_cursor_is_bound_to_its_filters(
    position: tuple[datetime, str], filters: dict[str, str | None], others: dict[str, str | None]
) -> None:
    if filters != others:
        refuse(CODEC.encode(position, filters), others)


@given(st.text(max_size=600) | st.binary(max_size=400).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@PROFILE
def test_nothing_else_is_a_cursor(text: str) -> None:
    refuse(text, {})


def refuse(cursor: str, filters: dict[str, str | None]) -> None:
    with pytest.raises(BadCursor) as refused:
        CODEC.decode(cursor, filters)
    assert isinstance(refused.value, BadRequest)
    assert (refused.value.status, refused.value.pointer) == (400, "#query/cursor")


class Paging(RuleBasedStateMachine):
    """Someone reads the list page by page while orders come, and change their state; several share a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        database = cast("MotorDatabase", Database(AtOnce()))
        self.store = OrderStore(database)
        self.documents = database[COLLECTION]
        self.service = OrderService(self.store, UserReplica(database), CODEC)
        self.orders: dict[str, Order] = {}
        self.gone: set[str] = set()
        self.begin()

    def begin(self) -> None:
        self.there_at_first = set(self.orders) - self.gone
        self.cursor: str | None = None
        self.seen: list[str] = []

    @rule(milliseconds=st.integers(0, 6))
    def place(self, milliseconds: int) -> None:
        """Anywhere in the list, since clocks differ."""
        at = START + timedelta(milliseconds=milliseconds)
        order = create_order(str(USER), f"key {len(self.orders)}", ITEMS, at)
        assert finish(self.store.insert([order]))
        self.orders[order.id] = order

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        """It stays where it is."""
        order = self.orders[data.draw(st.sampled_from(sorted(self.orders)))]
        if order.status == "pending":
            after = replace(order, status="cancelled", version=2)
            assert finish(self.store.move(order, after, "test"))
            self.orders[order.id] = after

    @rule(limit=st.integers(1, 4))
    def read_on(self, limit: int) -> None:
        reader = Principal(str(USER), "customer", 2**31)
        page = finish(self.service.list_newest(reader, None, None, self.cursor, limit))
        self.seen += [order.id for order in page.items]
        assert len(page.items) <= limit
        assert len(set(self.seen)) == len(self.seen), "nothing is seen twice"
        places = [(self.orders[order_id].created_at, order_id) for order_id in self.seen]
        assert places == sorted(places, reverse=True), "newest first"
        self.cursor = page.next_cursor
        if self.cursor is None:
            assert self.there_at_first <= set(self.seen), "what was there all the time is seen"
            self.begin()


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


Paging.TestCase.settings = settings(PROFILE, stateful_step_count=40, max_examples=80)
TestPaging = Paging.TestCase
