"""A database from a backup, and all that was published since: the log brings it up to date."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pymongo import MongoClient

from shop_cluster.pytest_plugin import MongoDatabase
from shop_common.kafka.producer import open_producer
from shop_common.kafka.settings import KafkaSettings
from shop_common.mongo import Database
from shop_common.settings import MongoSettings
from shop_orders import restore as command
from shop_orders.service import OrderService
from shop_orders.store.outbox import OrderOutbox

FORGOTTEN = {"applied", "outbox", "pending_at"}
"""What no event tells."""


@pytest.fixture
async def topic(kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    name = f"{topic_prefix}orders"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 3, 1)])
    monkeypatch.setattr(command, "TOPIC", name)
    yield name
    await admin.delete_topics([name])
    await admin.close()


@pytest.fixture
def environment(
    mongo_settings: MongoSettings, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ORDERS_MONGO__URL", mongo_settings.url.get_secret_value())
    monkeypatch.setenv("ORDERS_MONGO__DATABASE", mongo_settings.database)
    monkeypatch.setenv("ORDERS_KAFKA__BOOTSTRAP_SERVERS", kafka_bootstrap)
    return monkeypatch


async def publish(service: OrderService, database: Database, kafka_bootstrap: str, topic: str) -> None:
    """What the relay does, into a topic of this test's own."""
    outbox = OrderOutbox(database, service.settle)
    async with open_producer(KafkaSettings(bootstrap_servers=kafka_bootstrap)) as producer:
        while records := await outbox.pending(100):
            for record in records:
                await producer.send(record.event, topic)
            await outbox.mark_sent(records)
    await outbox.aclose()


def read_all(database: MongoDatabase, name: str) -> dict[str, dict[str, Any]]:
    with MongoClient[dict[str, Any]](database.url, tz_aware=True) as client:
        return {document["_id"]: document for document in client[name]["orders"].find()}


def known(orders: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        key: {field: value for field, value in order.items() if field not in FORGOTTEN} for key, order in orders.items()
    }


async def test_what_was_published_since_the_backup_is_restored(
    shop: Any,
    service: OrderService,
    database: Database,
    mongo_database: MongoDatabase,
    mongo_settings: MongoSettings,
    kafka_bootstrap: str,
    topic: str,
    environment: pytest.MonkeyPatch,
    user_id: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    behind, left = [(await shop.place(user_id, key)).json() for key in ("behind", "left")]
    await publish(service, database, kafka_bootstrap, topic)
    backup = copy.deepcopy(read_all(mongo_database, mongo_settings.database))
    assert (await shop.move(user_id, behind, "cancel")).status_code == 200
    missing = (await shop.place(user_id, "missing")).json()
    await publish(service, database, kafka_bootstrap, topic)
    before = read_all(mongo_database, mongo_settings.database)
    async with open_producer(KafkaSettings(bootstrap_servers=kafka_bootstrap)) as producer:
        await producer.send_record(topic, b"nobody", b"no event", [])
    with MongoClient[dict[str, Any]](mongo_database.url) as client:
        orders = client[mongo_settings.database]["orders"]
        orders.drop()
        orders.insert_many(backup.values())

    assert await asyncio.to_thread(command.main) == 0

    assert capsys.readouterr().out == "read 5 events, wrote 2 orders, skipped 1 malformed events\n"
    assert known(read_all(mongo_database, mongo_settings.database)) == known(before)
    again = await shop.place(user_id, "missing")
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (missing, "true")
    assert (await shop.place(user_id, "missing", quantity=3)).status_code == 422
    assert (await shop.move(user_id, left, "cancel")).status_code == 200
    await publish(service, database, kafka_bootstrap, topic)
    assert await asyncio.to_thread(command.main) == 0
    assert "wrote 0 orders" in capsys.readouterr().out


async def test_without_a_broker_it_is_one_line(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("ORDERS_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9")
    assert await asyncio.to_thread(command.main) == 1
    assert capsys.readouterr().err == "not restored (KafkaConnectionError); start it again, nothing is done twice\n"


async def test_without_the_topic_it_is_one_line(
    environment: pytest.MonkeyPatch,
    kafka_bootstrap: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "TOPIC", "never-made")
    assert await asyncio.to_thread(command.main) == 1
    assert capsys.readouterr().err == f"there is no topic never-made at {kafka_bootstrap}\n"
