"""The life of orders against a model of the specification, on MongoDB's wire and on the stand-in of the simulations."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr

import shop_orders.service
from interleave.documents import AtOnce, Database
from shop_cluster.pytest_plugin import MongoDatabase
from shop_common.cursors import CursorCodec
from shop_common.errors import AppError, PreconditionFailed
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderState
from shop_common.mongo import Database as MotorDatabase
from shop_common.mongo import open_mongo
from shop_common.settings import MongoSettings
from shop_common.tokens import Principal
from shop_orders.errors import IdempotencyKeyReused, OrderNotFound, OrderStateConflict
from shop_orders.models import OPEN, User, create_order
from shop_orders.service import OrderService
from shop_orders.store import leases, users
from shop_orders.store.orders import COLLECTION, OrderStore
from shop_orders.store.outbox import OrderOutbox
from shop_orders.store.users import UserReplica

USERS = [str(UUID(int=number)) for number in (1, 2)]
BODIES = [(OrderItem(sku=sku, quantity=1, unit_price=Money(amount=100, currency="EUR")),) for sku in ("TEA", "COFFEE")]
VERSIONS = st.integers(1, 3)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Expected:
    """An order as the specification has it."""

    user_id: str
    body: int
    history: list[str]
    applied: list[str] = field(default_factory=list)
    sent: set[int] = field(default_factory=set)
    """Marked as sent."""
    is_judged: bool = True
    """Since it was written, its user's state was looked at."""

    @property
    def status(self) -> str:
        return self.history[-1]

    def move(self, to: str, cause: str) -> None:
        self.history.append(to)
        self.applied.append(cause)


class Side:
    """The platform's service on one database."""

    def __init__(self, database: MotorDatabase) -> None:
        self.database = database
        self.replica = UserReplica(database)
        self.store = OrderStore(database)
        self.service = self.service_that_knows(self.replica)
        self.outbox = OrderOutbox(database, self.service.settle)

    def service_that_knows(self, users: UserReplica) -> OrderService:
        return OrderService(self.store, users, CursorCodec("orders", SecretStr("k" * 32)))


class OutdatedReplica(UserReplica):
    """What `place` saw before an event came between its two steps."""

    def __init__(self, view: User | None) -> None:
        self._view = view

    async def find(self, user_id: str) -> User | None:
        return self._view


Ask = Callable[[Callable[[Side], Awaitable[Any]]], Any]


class OrderLife(RuleBasedStateMachine):
    orders = Bundle("orders")
    clock = START

    def __init__(self, runner: asyncio.Runner, wire: Side) -> None:
        super().__init__()
        self.runner = runner
        self.sides = [wire, Side(cast("MotorDatabase", Database(AtOnce())))]
        self.expected: dict[str, Expected] = {}
        self.known: dict[str, User] = {}
        runner.run(_clear(wire.database))

    @initialize(histories=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2))
    def users_have_histories(self, histories: list[list[bool]]) -> None:
        self.active = dict(zip(USERS, histories, strict=True))

    def ask(self, command: Callable[[Side], Awaitable[Any]]) -> Any:
        """The same of both sides, at the same time by the clock; what comes is the same, too."""
        OrderLife.clock += timedelta(milliseconds=1)
        answers = [self.runner.run(_outcome(command(side))) for side in self.sides]
        assert answers[0] == answers[1], "the stand-in answers as the server does"
        return answers[0]

    @rule(target=orders, user=st.sampled_from(USERS), key=st.sampled_from("ab"), body=st.integers(0, 1))
    def place(self, user: str, key: str, body: int) -> str:
        return self.placed(user, key, body, self.known.get(user), lambda side: side.service)

    @rule(target=orders, user=st.sampled_from(USERS), key=st.sampled_from("cd"), version=st.integers(0, 3))
    def place_by_an_outdated_view(self, user: str, key: str, version: int) -> Any:
        """An event came between the look at the user and the write of the order."""
        known = self.known.get(user)
        if known is None or version >= known.version:
            return multiple()
        view = User(user, self.active[user][version - 1], version) if version else None
        return self.placed(user, key, 0, view, lambda side: side.service_that_knows(OutdatedReplica(view)))

    def placed(self, user: str, key: str, body: int, view: User | None, service: Callable[[Side], OrderService]) -> str:
        order_id = create_order(user, key, BODIES[0], START).id
        before = self.expected.get(order_id)
        answer = self.ask(lambda side: service(side).place(_principal(user), key, BODIES[body]))
        if before is None:
            history = ["pending"] if view is None else ["pending", "confirmed" if view.is_active else "rejected"]
            self.expected[order_id] = Expected(user, body, history, is_judged=view == self.known.get(user))
            assert (answer.order.status, answer.replayed) == (history[-1], False)
        elif before.body != body:
            assert answer is IdempotencyKeyReused
        else:
            assert (answer.order.version, answer.replayed) == (len(before.history), True)
        return order_id

    @rule(
        order_id=orders,
        to=st.sampled_from(["paid", "cancelled"]),
        version=VERSIONS,
        key=st.sampled_from("xy"),
        caller=st.sampled_from([*USERS, USERS[0]]),
    )
    def command(self, order_id: str, to: str, version: int, key: str, caller: str) -> None:
        order = self.expected[order_id]

        async def run(side: Side) -> Any:
            command = side.service.pay if to == "paid" else side.service.cancel
            return await command(_principal(caller), order_id, version, key)

        answer, cause = self.ask(run), f"{to} {key}"
        if caller != order.user_id:
            assert answer is OrderNotFound
        elif cause in order.applied:
            assert answer.replayed
        elif version != len(order.history):
            assert answer is PreconditionFailed
        elif order.status not in (OPEN if to == "cancelled" else ("confirmed",)):
            assert answer is OrderStateConflict
        else:
            order.move(to, cause)
            assert (answer.order.status, answer.order.version, answer.replayed) == (to, version + 1, False)

    @rule(user=st.sampled_from(USERS), version=VERSIONS)
    def hear_of_user(self, user: str, version: int) -> None:
        """In any order, and again."""
        heard = User(user, self.active[user][version - 1], version)
        self.ask(lambda side: side.service.follow_user(heard, f"event {version}"))
        self.known[user] = max(self.known.get(user, heard), heard, key=lambda known: known.version)
        self.judge([order for order in self.expected.values() if order.user_id == user], f"event {version}")

    def judge(self, orders: list[Expected], cause: str) -> None:
        for order in orders:
            known = self.known.get(order.user_id)
            order.is_judged = True
            if known is not None and order.status in OPEN:
                if not known.is_active:
                    order.move("cancelled", cause)
                elif order.status == "pending":
                    order.move("confirmed", cause)

    @rule(count=st.integers(0, 6), is_marked=st.booleans())
    def relay(self, count: int, is_marked: bool) -> None:  # noqa: FBT001 - drawn
        """A round of a relay that gets so far, and may end before it has marked."""
        new = [order for order in self.expected.values() if 1 not in order.sent]
        waiting = {
            (order_id, version)
            for order_id, order in self.expected.items()
            for version in range(1, len(order.history) + 1)
            if version not in order.sent
        }
        records = self.ask(lambda side: _pending(side.outbox))
        assert set(records) == waiting
        self.judge(new, "settle")
        chosen = records[:count]

        async def mark(side: Side) -> None:
            waiting = {(one.position, one.event.sequence): one for one in await side.outbox.pending(500)}
            await side.outbox.mark_sent([waiting[one] for one in chosen])

        if is_marked and chosen:
            self.ask(mark)
            for order_id, version in chosen:
                self.expected[order_id].sent.add(version)

    @invariant()
    def both_keep_what_is_expected(self) -> None:
        wire, stand_in = (self.runner.run(_documents(side.database)) for side in self.sides)
        assert wire == stand_in
        assert wire.keys() == self.expected.keys()
        for order_id, order in self.expected.items():
            document, versions = wire[order_id], range(1, len(order.history) + 1)
            assert (document["status"], document["version"]) == (order.status, len(order.history))
            assert document["applied"] == order.applied
            assert [entry["version"] for entry in document["outbox"]] == [v for v in versions if v not in order.sent]
            assert ("pending_at" in document) == bool(document["outbox"])
            for entry in document["outbox"]:
                state = OrderState.model_validate_json(entry["data"])
                assert (state.version, state.status) == (entry["version"], order.history[entry["version"] - 1])
                assert state.total == BODIES[0][0].unit_price

    @invariant()
    def promises_are_kept(self) -> None:
        for order in self.expected.values():
            assert len(order.history) <= 3
            known = self.known.get(order.user_id)
            if known is not None and order.is_judged:
                assert order.status not in (("pending",) if known.is_active else OPEN)


def _principal(user: str) -> Principal:
    return Principal(user, "customer", 2**31)


async def _outcome(command: Awaitable[Any]) -> Any:
    try:
        return await command
    except AppError as refused:
        return type(refused)


async def _clear(database: MotorDatabase) -> None:
    for name in (COLLECTION, users.COLLECTION, leases.COLLECTION):
        await database[name].delete_many({})


async def _pending(outbox: OrderOutbox) -> list[tuple[str, int]]:
    return sorted((record.position, record.event.sequence) for record in await outbox.pending(500))


async def _documents(database: MotorDatabase) -> dict[str, dict[str, Any]]:
    return {document["_id"]: document for document in await database[COLLECTION].find({}).to_list(100)}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_orders_live_as_specified(
    runner: asyncio.Runner, mongo_database: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop_orders.service, "_now", lambda: OrderLife.clock)
    monkeypatch.setattr(leases, "SHARDS", 2)
    opening = open_mongo(MongoSettings(url=SecretStr(mongo_database.url), database=mongo_database.name), "proofs")
    mongo = runner.run(opening.__aenter__())
    try:
        run_state_machine_as_test(
            lambda: OrderLife(runner, Side(mongo.database)),  # type: ignore[arg-type] # any callable will do
            settings=settings(
                max_examples=20,
                stateful_step_count=20,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        runner.run(opening.__aexit__(None, None, None))
