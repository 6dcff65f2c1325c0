"""Hypothesis drives orders through arbitrary commands and events on a real server, beside a small model of them."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pydantic import SecretStr

from shop_common.cursors import CursorCodec
from shop_common.errors import PreconditionFailed
from shop_common.events.contracts import parse
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderState
from shop_common.mongo import open_mongo
from shop_common.settings import MongoSettings
from shop_common.tokens import Principal
from shop_orders.errors import OrderStateConflict
from shop_orders.models import User
from shop_orders.service import OrderService
from shop_orders.store.orders import OrderStore
from shop_orders.store.outbox import OrderOutbox
from shop_orders.store.users import UserReplica

ITEMS = (OrderItem(sku="TEA", quantity=1, unit_price=Money(amount=7, currency="EUR")),)
SETTINGS = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
ALLOWED = {("confirmed", "pay"): "paid", ("pending", "cancel"): "cancelled", ("confirmed", "cancel"): "cancelled"}


@dataclass(frozen=True, slots=True)
class Shop:
    """The service on a server, for a caller that is not asynchronous."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    service: OrderService
    store: OrderStore
    outbox: OrderOutbox


class OrdersMachine(RuleBasedStateMachine):
    shop: ClassVar[Shop]
    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.user = Principal(str(uuid.uuid4()), "customer", 0)
        self.active: bool | None = None
        self.user_version = 0
        self.model: dict[str, list[str]] = {}
        self.published: dict[str, list[str]] = {}

    @rule(target=orders, key=st.integers(0, 5))
    def place(self, key: int) -> str:
        done = self.shop.run(self.shop.service.place(self.user, f"key-{key}", ITEMS))
        first = {None: ["pending"], True: ["pending", "confirmed"], False: ["pending", "rejected"]}[self.active]
        assert done.replayed == (done.order.id in self.model)
        self.model.setdefault(done.order.id, first)
        return str(done.order.id)

    @rule(order=orders, action=st.sampled_from(["pay", "cancel"]), behind=st.integers(-1, 1))
    def move(self, order: str, action: str, behind: int) -> None:
        states = self.model[order]
        command = getattr(self.shop.service, action)
        to = ALLOWED.get((states[-1], action))
        if behind or to is None:
            with pytest.raises(PreconditionFailed if behind else OrderStateConflict):
                self.shop.run(command(self.user, order, len(states) - behind, None))
        else:
            self.shop.run(command(self.user, order, len(states), None))
            states.append(to)

    @rule(active=st.booleans(), late=st.integers(0, 2))
    def follow_user(self, active: bool, late: int) -> None:  # noqa: FBT001 - Hypothesis passes by name
        version = self.user_version + 1 - late
        if version < 1:
            return
        if version > self.user_version:
            self.user_version, self.active = version, active
        self.shop.run(self.shop.service.follow_user(User(self.user.user_id, active, version), f"event {version}"))
        for states in self.model.values():
            if self.active and states[-1] == "pending":
                states.append("confirmed")
            elif self.active is False and states[-1] in {"pending", "confirmed"}:
                states.append("cancelled")

    @rule(lost=st.booleans())
    def relay(self, lost: bool) -> None:  # noqa: FBT001 - Hypothesis passes by name
        records = self.shop.run(self.shop.outbox.pending(500))
        for record in records:
            data = parse(record.event)
            assert isinstance(data, OrderState)
            told = self.published.setdefault(record.event.subject, [])
            assert data.version <= len(told) + 1
            if data.version == len(told) + 1:
                told.append(data.status)
            assert told[data.version - 1] == data.status
        if not lost:
            self.shop.run(self.shop.outbox.mark_sent(records))

    @invariant()
    def the_server_agrees(self) -> None:
        for order_id, states in self.model.items():
            order = self.shop.run(self.shop.store.get(order_id))
            assert (order.status, order.version) == (states[-1], len(states))

    def teardown(self) -> None:
        self.relay(lost=False)
        assert self.published == self.model


async def test_every_move_and_every_refusal(mongo_settings: MongoSettings) -> None:
    loop = asyncio.get_running_loop()

    def run(step: Coroutine[Any, Any, Any]) -> Any:
        """Hypothesis is synchronous, so it lives in a thread; each of its steps runs on this loop."""
        return asyncio.run_coroutine_threadsafe(step, loop).result(30)

    async with open_mongo(mongo_settings, "states") as mongo:
        store = OrderStore(mongo.database)
        service = OrderService(store, UserReplica(mongo.database), CursorCodec("orders", SecretStr("k" * 40)))

        class Machine(OrdersMachine):
            shop = Shop(run, service, store, OrderOutbox(mongo.database, service.settle))

        await asyncio.to_thread(run_state_machine_as_test, Machine, settings=SETTINGS)
