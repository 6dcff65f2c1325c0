"""The events in orders' documents, for the relay."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

from pymongo import ASCENDING

from shop_common.events.envelope import Event
from shop_common.events.orders import OrderState
from shop_common.mongo import Database
from shop_common.outbox import OutboxRecord
from shop_orders.models import Order
from shop_orders.store.leases import ShardLeases
from shop_orders.store.orders import COLLECTION, to_order

_PENDING: Final = {"pending_at": {"$exists": True}}


class OrderOutbox:
    """A relay's source. `settle` sees every new order once more before it leaves the outbox; see `OrderService`."""

    def __init__(self, database: Database, settle: Callable[[Sequence[Order]], Awaitable[None]]) -> None:
        self._orders = database[COLLECTION]
        self._settle = settle
        self._leases = ShardLeases(database)

    async def pending(self, limit: int) -> Sequence[OutboxRecord]:
        """Of the documents in this relay's shards that wait longest, each one's events by version."""
        shards = await self._leases.held()
        if not shards:
            return []
        cursor = self._orders.find({"shard": {"$in": shards}} | _PENDING).sort("pending_at", ASCENDING).limit(limit)
        documents = await cursor.to_list(limit)
        if emptied := [document["_id"] for document in documents if not document["outbox"]]:
            await self._take_off(emptied)  # whoever emptied them ended before doing it, and they would be read for ever
        await self._settle([to_order(document) for document in documents if _is_new(document)])
        return [record for document in documents for record in _records(document)][:limit]

    async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
        """Two updates, each atomic per document: the second only finds what got no new event in between."""
        order_ids = list({record.position for record in records})
        sent = [str(record.event.id) for record in records]
        await self._orders.update_many({"_id": {"$in": order_ids}}, {"$pull": {"outbox": {"id": {"$in": sent}}}})
        await self._take_off(order_ids)

    async def _take_off(self, order_ids: Sequence[str]) -> None:
        """Of the list of those that wait, where nothing does."""
        await self._orders.update_many(
            {"_id": {"$in": order_ids}, "outbox": {"$size": 0}}, {"$unset": {"pending_at": ""}}
        )

    async def aclose(self) -> None:
        """Give up the shards; they were taken with the first `pending()`."""
        await self._leases.release()


def _is_new(document: dict[str, Any]) -> bool:
    return any(entry["version"] == 1 for entry in document["outbox"])


def _records(document: dict[str, Any]) -> list[OutboxRecord]:
    return [
        OutboxRecord(
            position=document["_id"],
            topic=OrderState.TOPIC,
            event=Event(
                id=UUID(entry["id"]),
                type=entry["type"],
                source=OrderState.SOURCE,
                subject=document["_id"],
                sequence=entry["version"],
                time=entry["time"],
                key=document["user_id"],
                data=entry["data"],
                traceparent=entry["traceparent"],
            ),
        )
        for entry in sorted(document["outbox"], key=lambda entry: int(entry["version"]))
    ]
