"""Orders: one document each, which holds the order and the events of it that are not published yet.

A document stays small: an order has at most 100 items and three versions, so it is far below 16 MB with every event
still in it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pymongo import DESCENDING
from pymongo.errors import DuplicateKeyError

from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderStatus
from shop_common.mongo import Database
from shop_common.tracing import current_traceparent
from shop_orders.errors import OrderNotFound
from shop_orders.models import MOVES, Order
from shop_orders.store.leases import shard_of

COLLECTION: Final = "orders"
_APPLIED_KEPT: Final = 20
_WITHOUT_OUTBOX: Final = {"shard": 0, "outbox": 0, "pending_at": 0}
_NEWEST_FIRST: Final = [("created_at", DESCENDING), ("_id", DESCENDING)]


class OrderStore:
    """Each change is one write of one document, with its event in it."""

    def __init__(self, database: Database) -> None:
        self._orders = database[COLLECTION]

    async def insert(self, versions: Sequence[Order]) -> bool:
        """Write the last of an order's first versions, and the events of all; False where the id is taken."""
        latest = versions[-1]
        document = _to_document(latest) | {
            "shard": shard_of(latest.id),
            "outbox": [_outbox_entry(version) for version in versions],
            "pending_at": latest.updated_at,
        }
        try:
            await self._orders.insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    async def find(self, order_id: str) -> Order | None:
        document = await self._orders.find_one({"_id": order_id}, _WITHOUT_OUTBOX)
        return None if document is None else to_order(document)

    async def get(self, order_id: str) -> Order:
        """The order, or OrderNotFound."""
        order = await self.find(order_id)
        if order is None:
            raise OrderNotFound("There is no such order")
        return order

    async def move(self, before: Order, after: Order, cause: str) -> bool:
        """Replace one version by the next; False where it is no longer the current one."""
        found = await self._orders.find_one_and_update(
            {"_id": before.id, "version": before.version, "status": {"$in": list(MOVES[after.status])}},
            {
                "$set": {"status": after.status, "updated_at": after.updated_at, "pending_at": after.updated_at},
                "$inc": {"version": 1},
                "$push": {
                    "outbox": _outbox_entry(after),
                    "applied": {"$each": [cause], "$slice": -_APPLIED_KEPT},
                },
            },
            projection={"_id": 1},
        )
        return found is not None

    async def overtake(self, order: Order) -> bool:
        """Write this version, which was published, where an older one or none is kept; False where it is no news."""
        document = _to_document(order)
        new = {"applied": document.pop("applied"), "shard": shard_of(order.id), "outbox": list[dict[str, Any]]()}
        try:
            await self._orders.update_one(
                {"_id": document.pop("_id"), "version": {"$lt": order.version}},
                {"$set": document, "$setOnInsert": new},
                upsert=True,
            )
        except DuplicateKeyError:  # the document is there and the filter did not match it
            return False
        return True

    async def find_page(
        self, user_id: str | None, status: OrderStatus | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Order]:
        """Newest first, those that follow the position `after`; None for a filter means any."""
        query: dict[str, Any] = {}
        if user_id is not None:
            query["user_id"] = user_id
        if status is not None:
            query["status"] = status
        if after is not None:
            created_at, order_id = after
            # The plain bound is what an index range is made of; the $or only sorts out the same millisecond.
            query["created_at"] = {"$lte": created_at}
            query["$or"] = [{"created_at": {"$lt": created_at}}, {"_id": {"$lt": order_id}}]
        cursor = self._orders.find(query, _WITHOUT_OUTBOX).sort(_NEWEST_FIRST).limit(limit)
        return [to_order(document) for document in await cursor.to_list(limit)]

    async def find_in(self, user_id: str, statuses: Sequence[OrderStatus], limit: int) -> list[Order]:
        """Some of a user's orders in these states."""
        query = {"user_id": user_id, "status": {"$in": list(statuses)}}
        cursor = self._orders.find(query, _WITHOUT_OUTBOX).limit(limit)
        return [to_order(document) for document in await cursor.to_list(limit)]


def to_order(document: dict[str, Any]) -> Order:
    return Order(
        id=document["_id"],
        user_id=document["user_id"],
        status=document["status"],
        items=tuple(OrderItem.model_validate(item) for item in document["items"]),
        total=Money.model_validate(document["total"]),
        version=document["version"],
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        fingerprint=document["fingerprint"],
        applied=tuple(document["applied"]),
    )


def _to_document(order: Order) -> dict[str, Any]:
    return {
        "_id": order.id,
        "user_id": order.user_id,
        "status": order.status,
        "items": [item.model_dump() for item in order.items],
        "total": order.total.model_dump(),
        "version": order.version,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "fingerprint": order.fingerprint,
        "applied": list(order.applied),
    }


def _outbox_entry(order: Order) -> dict[str, Any]:
    event = order.to_event(current_traceparent())
    return {
        "id": str(event.id),
        "version": event.sequence,
        "type": event.type,
        "time": event.time,
        "data": event.data,
        "traceparent": event.traceparent,
    }
