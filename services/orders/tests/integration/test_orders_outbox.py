"""The outbox and its relay: order, crash points, duplicates."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from pymongo.errors import AutoReconnect

from shop_common.events.contracts import CONTRACTS, parse
from shop_common.events.envelope import Event, event_id
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderState
from shop_common.mongo import Database
from shop_common.outbox import OutboxRecord, OutboxRelay
from shop_common.tokens import Principal
from shop_common.tracing import current_traceparent, entry_span
from shop_orders.models import Order, User
from shop_orders.service import OrderService
from shop_orders.store.leases import SHARDS
from shop_orders.store.outbox import OrderOutbox

PENDING = {"shard": {"$in": list(range(SHARDS))}, "pending_at": {"$exists": True}}
ITEMS = (OrderItem(sku="TEA", quantity=2, unit_price=Money(amount=5, currency="EUR")),)


class Log:
    """Where events go; refuses some, and tells of each."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refused: set[tuple[str, int]] = set()
        self.arrived = asyncio.Event()

    async def send(self, event: Event, topic: str) -> None:
        assert topic == "orders.events.v1"
        if (event.subject, event.sequence) in self.refused:
            raise ConnectionError("no ack")
        self.events.append(event)
        self.arrived.set()

    def versions(self, order: Order) -> list[int]:
        return [event.sequence for event in self.events if event.subject == order.id]


class Buyer:
    def __init__(self, service: OrderService) -> None:
        self.service = service
        self.principal = Principal(str(uuid.uuid4()), "customer", 0)

    async def known(self) -> "Buyer":
        await self.service.follow_user(User(self.principal.user_id, is_active=True, version=1), "event 1")
        return self

    async def place(self) -> Order:
        return (await self.service.place(self.principal, uuid.uuid4().hex, ITEMS)).order

    async def pay(self, order: Order) -> Order:
        return (await self.service.pay(self.principal, order.id, order.version, None)).order


@pytest.fixture
async def buyer(service: OrderService) -> Buyer:
    return await Buyer(service).known()


@pytest.fixture
def outbox(database: Database, service: OrderService) -> OrderOutbox:
    return OrderOutbox(database, service.settle)


async def relayed(outbox: OrderOutbox, log: Log, rounds: int = 1) -> None:
    """Rounds of the real relay, until the outbox is empty or so many have read it."""
    stop = asyncio.Event()
    reads = 0

    class Counted:
        async def pending(self, limit: int) -> Sequence[OutboxRecord]:
            nonlocal reads
            reads += 1
            if reads > rounds:
                stop.set()
                return []
            return await outbox.pending(limit)

        async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
            await outbox.mark_sent(records)

    relay = OutboxRelay(Counted(), log)
    relay.nudge()
    async with asyncio.timeout(30):
        await relay.run(stop)


async def waiting(database: Database) -> int:
    return len([order async for order in database["orders"].find(PENDING)])


async def test_every_version_is_published_once_and_in_order(
    buyer: Buyer, outbox: OrderOutbox, database: Database
) -> None:
    orders = [await buyer.place() for _ in range(20)]
    paid = [await buyer.pay(order) for order in orders[:10]]
    log = Log()
    await relayed(outbox, log)
    assert [log.versions(order) for order in orders] == [[1, 2, 3]] * 10 + [[1, 2]] * 10
    assert await waiting(database) == 0
    for order in paid:
        last = next(event for event in log.events if event.subject == order.id and event.sequence == 3)
        assert last.id == event_id(order.id, 3)
        assert last.key == order.user_id
        data = parse(last)
        assert isinstance(data, OrderState)
        assert (str(data.id), data.status, data.version, data.total.amount) == (order.id, "paid", 3, 10)
        assert (data.created_at, data.updated_at) == (order.created_at, order.updated_at)
        assert last.time == order.updated_at
    await relayed(outbox, log)
    assert len(log.events) == 50
    assert {CONTRACTS[event.type] for event in log.events} == {
        CONTRACTS[f"orders.order_{name}.v1"] for name in ("placed", "confirmed", "paid")
    }


async def test_who_waits_longest_goes_first(buyer: Buyer, outbox: OrderOutbox, database: Database) -> None:
    orders = [await buyer.place() for _ in range(4)]
    for order, seconds in zip(orders, (3, 1, 4, 2), strict=True):
        since = order.created_at - timedelta(seconds=seconds)
        await database["orders"].update_one({"_id": order.id}, {"$set": {"pending_at": since}})
    subjects = [record.event.subject for record in await outbox.pending(500)]
    assert list(dict.fromkeys(subjects)) == [orders[index].id for index in (2, 0, 3, 1)]
    assert [record.event.subject for record in await outbox.pending(3)] == subjects[:3]


async def test_a_cut_batch_has_no_gap(buyer: Buyer, outbox: OrderOutbox) -> None:
    order = await buyer.pay(await buyer.place())
    records = await outbox.pending(2)
    assert [(record.event.subject, record.event.sequence) for record in records] == [(order.id, 1), (order.id, 2)]
    await outbox.mark_sent(records)
    assert [record.event.sequence for record in await outbox.pending(2)] == [3]


async def test_sent_but_not_marked_is_sent_again_as_the_same_event(
    buyer: Buyer, outbox: OrderOutbox, database: Database
) -> None:
    order = await buyer.place()
    log = Log()
    for record in await outbox.pending(500):  # and then the process ended
        await log.send(record.event, record.topic)
    await relayed(outbox, log)
    assert log.versions(order) == [1, 2, 1, 2]
    assert log.events[:2] == log.events[2:]
    assert await waiting(database) == 0


async def test_only_what_was_acked_is_marked(buyer: Buyer, outbox: OrderOutbox, database: Database) -> None:
    stuck, fine = await buyer.place(), await buyer.place()
    log = Log()
    log.refused = {(stuck.id, 2)}
    await relayed(outbox, log)
    assert (log.versions(stuck), log.versions(fine)) == ([1], [1, 2])
    document = await database["orders"].find_one({"_id": stuck.id})
    assert document is not None
    assert [entry["version"] for entry in document["outbox"]] == [2]
    assert "pending_at" in document
    await buyer.pay(stuck)
    log.refused = set()
    await relayed(outbox, log)
    assert log.versions(stuck) == [1, 2, 3]
    assert await waiting(database) == 0


async def test_a_change_between_sending_and_marking_stays_in_the_outbox(
    buyer: Buyer, outbox: OrderOutbox, database: Database
) -> None:
    order = await buyer.place()
    records = await outbox.pending(500)
    await buyer.pay(order)
    await outbox.mark_sent(records)
    await outbox.mark_sent(records)
    assert [record.event.sequence for record in await outbox.pending(500)] == [3]


async def test_a_change_between_the_two_updates_of_marking_stays_in_the_outbox(
    buyer: Buyer, outbox: OrderOutbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is taken off in the update whose filter sees the empty outbox: here it is not empty any more."""
    order = await buyer.place()
    records = await outbox.pending(500)
    real = database["orders"].update_many

    async def update_many(query: dict[str, Any], change: dict[str, Any]) -> None:
        await real(query, change)
        if "$pull" in change:
            await buyer.pay(order)

    monkeypatch.setattr(outbox._orders, "update_many", update_many)
    await outbox.mark_sent(records)
    assert [record.event.sequence for record in await outbox.pending(500)] == [3]


async def test_a_relay_killed_between_the_two_updates_of_marking_leaves_nothing_behind(
    buyer: Buyer, outbox: OrderOutbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptied, and still among those that wait: enough of them would hide all others from the relay."""
    orders = [await buyer.place() for _ in range(3)]
    with monkeypatch.context() as patch:

        async def killed(*_: Any) -> None:
            raise asyncio.CancelledError

        patch.setattr(outbox, "_take_off", killed)
        with pytest.raises(asyncio.CancelledError):
            await outbox.mark_sent(await outbox.pending(500))
    assert await waiting(database) == 3
    late = await buyer.place()
    found = [record.position for _ in range(4) for record in await outbox.pending(3)]
    assert set(found) == {late.id}
    assert await waiting(database) == 1
    await buyer.pay(orders[0])
    assert {record.position for record in await outbox.pending(500)} == {orders[0].id, late.id}


async def test_two_relays_at_once_only_duplicate(buyer: Buyer, outbox: OrderOutbox, database: Database) -> None:
    orders = [await buyer.place() for _ in range(30)]
    log = Log()
    await asyncio.gather(relayed(outbox, log, 2), relayed(outbox, log, 2))
    for order in orders:
        assert list(dict.fromkeys(log.versions(order))) == [1, 2]
    assert await waiting(database) == 0


async def test_a_database_that_fails_between_reading_and_marking(
    buyer: Buyer, outbox: OrderOutbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await buyer.place()
    real, failures = OrderOutbox.mark_sent, 2

    async def failing(self: OrderOutbox, records: Sequence[OutboxRecord]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise AutoReconnect("connection closed")
        await real(self, records)

    monkeypatch.setattr(OrderOutbox, "mark_sent", failing)
    log = Log()
    await relayed(outbox, log)
    assert log.versions(order) == [1, 2]
    assert await waiting(database) == 0


async def test_each_event_keeps_the_trace_that_caused_it(buyer: Buyer, outbox: OrderOutbox) -> None:
    incoming = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    with entry_span("POST", SpanKind.SERVER, incoming):
        order = await buyer.place()
        placing = current_traceparent()
    await buyer.pay(order)
    traces = [record.event.traceparent for record in await outbox.pending(500)]
    assert placing is not None
    assert placing[:35] == incoming[:35]
    assert traces == [placing, placing, None]


async def test_documents_stay_small(buyer: Buyer, database: Database) -> None:
    """The largest order, cancelled, with nothing of it published yet."""
    price = Money(amount=10**9, currency="EUR")
    items = [OrderItem(sku=f"{'S' * 61}{n:03}", quantity=1000, unit_price=price) for n in range(100)]
    order = (await buyer.service.place(buyer.principal, "largest", items)).order
    await buyer.service.cancel(buyer.principal, order.id, 2, "k" * 255)
    document = await database["orders"].find_one({"_id": order.id})
    assert document is not None
    assert len(document["outbox"]) == 3
    assert all(len(entry["data"]) < 20_000 for entry in document["outbox"])
