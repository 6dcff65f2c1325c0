"""A relay that was killed between its two updates leaves nothing that others must step over for ever."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import SecretStr

from shop_cluster.pytest_plugin import MongoDatabase
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.mongo import Database, open_mongo
from shop_common.settings import MongoSettings
from shop_orders.models import Order, create_order
from shop_orders.store.orders import COLLECTION, OrderStore
from shop_orders.store.outbox import OrderOutbox

ITEMS = (OrderItem(sku="TEA", quantity=1, unit_price=Money(amount=100, currency="EUR")),)
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def database(mongo_database: MongoDatabase) -> AsyncIterator[Database]:
    settings = MongoSettings(url=SecretStr(mongo_database.url), database=f"{mongo_database.name}_outbox")
    async with open_mongo(settings, "proofs") as mongo:
        yield mongo.database
        await mongo.database.client.drop_database(settings.database)


async def stays(orders: Sequence[Order]) -> None:
    """Nothing to settle."""


async def test_orders_whose_events_are_all_sent_do_not_hide_those_that_wait(database: Database) -> None:
    store, outbox = OrderStore(database), OrderOutbox(database, stays)
    older, newer = (
        create_order(str(UUID(int=1)), f"key {number}", ITEMS, START + timedelta(seconds=number)) for number in range(2)
    )
    for order in (older, newer):
        await store.insert([order])
    # All that a mark did before its process was killed: the event is gone, and the document still says it waits.
    await database[COLLECTION].update_one({"_id": older.id}, {"$pull": {"outbox": {"version": 1}}})

    read = [await outbox.pending(1) for _ in range(3)]
    assert [record.position for records in read for record in records][:1] == [newer.id]
    assert await database[COLLECTION].find_one({"_id": older.id, "pending_at": {"$exists": True}}) is None
