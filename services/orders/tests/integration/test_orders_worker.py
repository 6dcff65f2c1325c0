"""The API and the worker on real Kafka and MongoDB: users' events in, orders' events out."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from shop_common.events import orders, users
from shop_common.events.contracts import parse
from shop_common.events.envelope import Event
from shop_common.events.orders import OrderState
from shop_common.events.users import UserDeactivated, UserRegistered, UserState, UserUpdated
from shop_common.kafka.producer import EventProducer, open_producer
from shop_common.kafka.settings import KafkaSettings
from shop_common.kafka.topics import all_partitions, create_topics
from shop_common.mongo import Database
from shop_common.testing import move_group, open_app_client
from shop_orders.settings import Settings
from shop_orders.store.leases import SHARDS, ShardLeases
from shop_orders.worker import GROUP, create_worker

NOW = datetime.now(UTC)
PENDING = {"shard": {"$in": list(range(SHARDS))}, "pending_at": {"$exists": True}}
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def settings(settings: Settings, kafka_bootstrap: str) -> Settings:
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap, session_timeout_ms=6000)
    return settings.model_copy(update={"kafka": kafka})


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    await create_topics(settings.kafka.bootstrap_servers)
    await move_group(settings.kafka.bootstrap_servers, GROUP, to_end=True)  # other tests have filled it
    async with open_app_client(create_worker(settings)) as probe:
        yield probe


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[EventProducer]:
    async with open_producer(settings.kafka) as opened:
        yield opened


def user_event(contract: type[UserState], user_id: str, version: int, *, active: bool) -> Event:
    return contract(
        id=uuid.UUID(user_id),
        email="ada@example.com",
        username="ada",
        full_name="Ada",
        role="customer",
        is_active=active,
        version=version,
        created_at=NOW,
        updated_at=NOW,
    ).to_event(SAMPLED)


async def published(bootstrap: str, user_id: str) -> list[Event]:
    """Every event of this user's orders that is in the log now, in the order of its partition."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = all_partitions(orders.TOPIC)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        records: list[Any] = []
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
    finally:
        await consumer.stop()
    return [Event.from_kafka(record) for record in records if record.key == user_id.encode()]


async def test_users_and_orders_meet_through_kafka(
    shop: Any,
    worker: httpx.AsyncClient,
    producer: EventProducer,
    database: Database,
    kafka_bootstrap: str,
    user_id: str,
    eventually: Any,
) -> None:
    async def is_ready() -> bool:
        ready = await worker.get("/readyz")
        assert set(ready.json()["checks"]) == {"mongo", "kafka", "orders-worker"}
        return ready.status_code == 200

    await eventually(is_ready)
    early = [(await shop.place(user_id)).json() for _ in range(3)]
    assert {order["status"] for order in early} == {"pending"}

    async def states(*expected: str) -> bool:
        return sorted([order["status"] for order in (await shop.get(user_id)).json()["items"]]) == sorted(expected)

    await producer.send(user_event(UserRegistered, user_id, 1, active=True), users.TOPIC)
    await eventually(lambda: states(*["confirmed"] * 3))
    paid = (await shop.move(user_id, early[0] | {"version": 2}, "pay")).json()
    late = (await shop.place(user_id)).json()
    assert late["status"] == "confirmed"
    await producer.send(user_event(UserDeactivated, user_id, 3, active=False), users.TOPIC)
    await producer.send(user_event(UserUpdated, user_id, 2, active=True), users.TOPIC)  # comes late, changes nothing
    await eventually(lambda: states("paid", *["cancelled"] * 3))
    assert (await shop.place(user_id)).json()["status"] == "rejected"

    async def is_published() -> bool:
        return await database["orders"].find_one(PENDING) is None

    await eventually(is_published)
    events = await published(kafka_bootstrap, user_id)
    told: dict[str, list[tuple[int, str]]] = {}
    for event in events:
        data = parse(event)
        assert isinstance(data, OrderState)
        told.setdefault(event.subject, []).append((event.sequence, data.status))
    assert len({event.id for event in events}) == len(events)
    cancelled = [(1, "pending"), (2, "confirmed"), (3, "cancelled")]
    assert told.pop(paid["id"]) == [(1, "pending"), (2, "confirmed"), (3, "paid")]
    assert [told.pop(order["id"]) for order in (*early[1:], late)] == [cancelled] * 3
    assert list(told.values()) == [[(1, "pending"), (2, "rejected")]]
    # What the deactivation led to belongs to the trace in which the user was deactivated.
    traces = {event.type: event.traceparent for event in events}
    assert str(traces["orders.order_cancelled.v1"])[:36] == SAMPLED[:36]


async def test_the_api_needs_no_kafka_and_the_worker_catches_up(
    shop: Any, settings: Settings, database: Database, kafka_bootstrap: str, user_id: str, eventually: Any
) -> None:
    placed = await asyncio.gather(*(shop.place(user_id) for _ in range(20)))
    assert {answer.status_code for answer in placed} == {201}
    await create_topics(settings.kafka.bootstrap_servers)
    async with open_app_client(create_worker(settings)):

        async def is_published() -> bool:
            return await database["orders"].find_one(PENDING) is None

        await eventually(is_published)
    assert await ShardLeases(database).held() == list(range(SHARDS)), "given up at the end, not left to run out"
    subjects = sorted(event.subject for event in await published(kafka_bootstrap, user_id))
    assert subjects == sorted(answer.json()["id"] for answer in placed)
