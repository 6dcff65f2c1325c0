"""Shards of the outbox pass from relay to relay: each event is sent by one, whoever comes, closes or vanishes."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pymongo.errors import AutoReconnect

from shop_common.events.envelope import Event
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.mongo import Database
from shop_common.outbox import OutboxRelay
from shop_common.tokens import Principal
from shop_orders.models import Order
from shop_orders.service import OrderService
from shop_orders.store import leases as leases_module
from shop_orders.store.leases import SHARDS, ShardLeases, shard_of
from shop_orders.store.outbox import OrderOutbox

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
ITEMS = (OrderItem(sku="TEA", quantity=2, unit_price=Money(amount=5, currency="EUR")),)
ALL = list(range(SHARDS))


class Log:
    """Where events go, and which relay sent each."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Event]] = []

    def by(self, relay: str) -> "Sender":
        return Sender(self, relay)

    def senders(self) -> dict[int, set[str]]:
        """Of each shard."""
        senders: dict[int, set[str]] = {}
        for relay, event in self.sent:
            senders.setdefault(shard_of(event.subject), set()).add(relay)
        return senders


class Sender:
    def __init__(self, log: Log, relay: str) -> None:
        self.log, self.relay = log, relay

    async def send(self, event: Event, topic: str) -> None:
        await asyncio.sleep(0)
        self.log.sent.append((self.relay, event))


async def place(service: OrderService, count: int) -> list[Order]:
    principal = Principal(str(uuid.uuid4()), "customer", 0)
    return [(await service.place(principal, uuid.uuid4().hex, ITEMS)).order for _ in range(count)]


@asynccontextmanager
async def relaying(outbox: OrderOutbox, log: Log, name: str) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(OutboxRelay(outbox, log.by(name), idle_poll_seconds=0.02).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


@pytest.fixture
def open_outbox(database: Database, service: OrderService) -> Callable[[], OrderOutbox]:
    return lambda: OrderOutbox(database, service.settle)


def is_quiet(database: Database) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        pending = {"shard": {"$in": ALL}, "pending_at": {"$exists": True}}
        return await database["orders"].find_one(pending) is None

    return check


def short_lease(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(leases_module, "LEASE", timedelta(seconds=seconds))
    monkeypatch.setattr(leases_module, "_RENEW_SECONDS", seconds / 3)


async def test_two_relays_send_each_event_once(
    open_outbox: Callable[[], OrderOutbox], service: OrderService, database: Database, eventually: Eventually
) -> None:
    log = Log()
    async with (
        aclosing(open_outbox()) as first,
        aclosing(open_outbox()) as second,
        relaying(first, log, "first"),
        relaying(second, log, "second"),
    ):
        orders = [order for _ in range(4) for order in await place(service, 15)]
        await eventually(is_quiet(database))
        held = [outbox._leases._held for outbox in (first, second)]
    assert sorted(held[0] + held[1]) == ALL
    assert Counter(event.subject for _, event in log.sent) == Counter(order.id for order in orders)
    assert all(len(relays) == 1 for relays in log.senders().values())


async def test_relays_that_begin_at_once_share_no_shard(database: Database) -> None:
    relays = [ShardLeases(database) for _ in range(4)]
    held = await asyncio.gather(*(relay.held() for relay in relays))
    assert sorted(shard for shards in held for shard in shards) == ALL
    assert await asyncio.gather(*(relay.held() for relay in relays)) == held


async def test_a_relay_that_closes_hands_over_at_once(
    open_outbox: Callable[[], OrderOutbox], service: OrderService
) -> None:
    orders = await place(service, 20)
    async with aclosing(open_outbox()) as second:
        async with aclosing(open_outbox()) as first:
            assert len(await first.pending(500)) == 20
            assert await second.pending(500) == []
        assert {record.position for record in await second.pending(500)} == {order.id for order in orders}


async def test_a_relay_that_vanishes_is_replaced_once_its_lease_has_run_out(
    open_outbox: Callable[[], OrderOutbox],
    service: OrderService,
    database: Database,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_lease(monkeypatch, 1.5)
    log, vanished = Log(), open_outbox()
    await place(service, 20)
    begun = time.monotonic()
    assert len(await vanished.pending(500)) == 20  # and is heard of no more
    async with aclosing(open_outbox()) as other, relaying(other, log, "other"):
        await eventually(is_quiet(database))
    assert time.monotonic() - begun >= 1.5
    assert len(log.sent) == 20


async def test_a_relay_at_work_keeps_its_shards(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the lease is, which it renews when a third of it is over, and not each time it is asked."""
    short_lease(monkeypatch, 3)
    relay, other = ShardLeases(database), ShardLeases(database)
    renewals, real = 0, relay._leases.update_many

    async def counted(*arguments: Any) -> Any:
        nonlocal renewals
        renewals += 1
        return await real(*arguments)

    monkeypatch.setattr(relay._leases, "update_many", counted)
    asked, until = 0, datetime.now(UTC) + timedelta(seconds=4)
    while datetime.now(UTC) < until:
        assert await relay.held() == ALL
        assert await other.held() == []
        asked += 1
    assert 2 <= renewals <= 5 < asked


async def test_what_another_relay_took_is_noticed_with_the_renewal(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = ShardLeases(database)
    await relay.held()
    stolen = {"owner": "somebody", "until": datetime.now(UTC) + timedelta(minutes=1)}
    await database["outbox_leases"].update_one({"_id": 3}, {"$set": stolen})
    assert await relay.held() == ALL, "not asked for yet"
    relay._renew_at = 0
    assert await relay.held() == [shard for shard in ALL if shard != 3]
    assert REGISTRY.get_sample_value("shop_outbox_shards") == len(ALL) - 1
    await relay.release()
    assert REGISTRY.get_sample_value("shop_outbox_shards") == 0
    assert (await database["outbox_leases"].find_one({"_id": 3}) or {})["owner"] == "somebody"
    assert await ShardLeases(database).held() == [shard for shard in ALL if shard != 3]


async def test_a_relay_with_a_stale_lease_only_duplicates(
    open_outbox: Callable[[], OrderOutbox],
    service: OrderService,
    database: Database,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was stopped between reading and sending, and wakes up when the other has sent the same and more."""
    short_lease(monkeypatch, 0.2)
    log, zombie = Log(), open_outbox()
    [order] = await place(service, 1)
    records = await zombie.pending(500)
    async with aclosing(open_outbox()) as other, relaying(other, log, "other"):
        await eventually(is_quiet(database))
        for record in records:
            await log.by("zombie").send(record.event, record.topic)
        await zombie.mark_sent(records)
        principal = Principal(order.user_id, "customer", 0)
        await service.cancel(principal, order.id, 1, None)
        await eventually(is_quiet(database))
    assert [(relay, event.sequence) for relay, event in log.sent] == [("other", 1), ("zombie", 1), ("other", 2)]


async def test_a_release_that_fails_is_no_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = ShardLeases(database)
    await relay.held()

    async def fails(*_: Any) -> None:
        raise AutoReconnect

    monkeypatch.setattr(relay._leases, "update_many", fails)
    await relay.release()
    assert await ShardLeases(database).held() == []


def test_orders_spread_over_the_shards() -> None:
    found = Counter(shard_of(str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number)))) for number in range(1600))
    assert set(found) == set(ALL)
    assert max(found.values()) < 200
