"""The worker against real PostgreSQL, Kafka and SMTP: what the API commits is published, counted and mailed."""

import asyncio
import uuid
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from mailbox import Maildir
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY

from shop_cluster.pytest_plugin import Server
from shop_common.events import orders, users
from shop_common.events.contract import Contract
from shop_common.events.envelope import Event
from shop_common.events.money import Money
from shop_common.events.orders import OrderConfirmed, OrderItem, OrderPaid, OrderPlaced
from shop_common.events.users import UserRegistered
from shop_common.kafka.producer import EventProducer, open_producer
from shop_common.kafka.settings import KafkaSettings
from shop_common.kafka.topics import create_topics
from shop_common.postgres import Postgres
from shop_common.testing import move_group, open_app_client
from shop_users.settings import Settings, SmtpSettings
from shop_users.worker import MAIL_GROUP, ORDERS_GROUP, create_worker

NOW = datetime.now(UTC)


@pytest.fixture
def settings(settings: Settings, kafka_bootstrap: str, mail_server: Server) -> Settings:
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap, session_timeout_ms=6000)
    smtp = SmtpSettings(host=mail_server.host, port=mail_server.port)
    return settings.model_copy(update={"kafka": kafka, "smtp": smtp})


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    await create_topics(settings.kafka.bootstrap_servers)
    for group in (ORDERS_GROUP, MAIL_GROUP):
        await move_group(settings.kafka.bootstrap_servers, group, to_end=True)  # other tests have filled their topics
    async with open_app_client(create_worker(settings)) as probe:
        yield probe


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[EventProducer]:
    async with open_producer(settings.kafka) as opened:
        yield opened


Put = Callable[[Event], Awaitable[int]]


@pytest.fixture
async def put(settings: Settings) -> AsyncIterator[Put]:
    """Send one about an order, and tell the offset it got."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)

    async def send(event: Event) -> int:
        key, value, headers = event.to_kafka()
        sent = await producer.send_and_wait(orders.TOPIC, value=value, key=key, headers=headers)
        return int(sent.offset)

    await producer.start()
    yield send
    await producer.stop()


def order_event(contract: type[Contract], user_id: str, order_id: uuid.UUID, version: int, status: str) -> Event:
    price = Money(amount=1250, currency="EUR")
    return contract(
        id=order_id,
        user_id=uuid.UUID(user_id),
        status=status,
        items=(OrderItem(sku="sku", quantity=2, unit_price=price),),
        total=Money(amount=2500, currency="EUR"),
        version=version,
        created_at=NOW,
        updated_at=NOW,
    ).to_event()


def handled(group: str, event_type: str) -> float:
    labels = {"group": group, "type": event_type, "outcome": "handled"}
    return REGISTRY.get_sample_value("shop_events_consumed_total", labels) or 0


async def test_from_the_api_through_kafka_to_mail_and_statistics(
    client: httpx.AsyncClient,
    register: Any,
    worker: httpx.AsyncClient,
    producer: EventProducer,
    postgres: Postgres,
    mail_server: Server,
    until: Any,
) -> None:
    name = f"ada-{uuid.uuid4().hex[:8]}"
    mailed = handled(MAIL_GROUP, UserRegistered.TYPE)
    ada = await register(name)

    async def published_and_mailed() -> bool:
        waiting = await postgres.fetchval("SELECT count(*) FROM outbox")
        is_counted = handled(MAIL_GROUP, UserRegistered.TYPE) > mailed  # perhaps others', which lay in the topic
        return waiting == 0 and is_counted and mails(mail_server, ada.user["email"]) == 1

    await until(published_and_mailed)
    ready = await worker.get("/readyz")
    assert (ready.status_code, set(ready.json()["checks"])) == (200, {"postgres", "kafka", ORDERS_GROUP, MAIL_GROUP})

    mailed = handled(MAIL_GROUP, UserRegistered.TYPE)
    order_id, paid_before = uuid.uuid4(), handled(ORDERS_GROUP, OrderPaid.TYPE)
    paid = order_event(OrderPaid, ada.id, order_id, 3, "paid")
    for event in (paid, order_event(OrderPlaced, ada.id, order_id, 1, "pending"), paid):
        await producer.send(event, orders.TOPIC)
    registered = UserRegistered(
        id=uuid.UUID(ada.id),
        email=ada.user["email"],
        username=name,
        full_name=None,
        role="customer",
        is_active=True,
        version=1,
        created_at=NOW,
        updated_at=NOW,
    ).to_event()
    for _ in range(2):
        await producer.send(registered, users.TOPIC)

    async def all_handled() -> bool:
        mailing, counting = handled(MAIL_GROUP, UserRegistered.TYPE), handled(ORDERS_GROUP, OrderPaid.TYPE)
        return mailing >= mailed + 2 and counting >= paid_before + 2

    await until(all_handled)
    answer = await client.get(f"{ada.path}/stats", headers=ada.bearer)
    assert answer.json() == {
        "orders": 1,
        "paid": 1,
        "cancelled": 0,
        "spent": [{"amount": 2500, "currency": "EUR"}],
    }
    assert mails(mail_server, ada.user["email"]) == 1


def mails(mail_server: Server, address: str) -> int:
    return sum(mail["To"] == address for mail in Maildir(mail_server.url))


async def test_statistics_come_with_the_offset_of_the_last_record_applied_whatever_it_changed(
    client: httpx.AsyncClient, register: Any, worker: httpx.AsyncClient, put: Put, until: Any
) -> None:
    ada, bob = await register("ada"), await register("bob")

    async def stats(account: Any, **headers: str) -> httpx.Response:
        return await client.get(f"{account.path}/stats", headers=account.bearer | headers)

    async def applied(account: Any, event: Event) -> httpx.Response:
        offset = str(await put(event))

        async def is_told() -> bool:
            return bool((await stats(account)).headers.get("projected-offset") == offset)

        await until(is_told)
        return await stats(account)

    first, second = uuid.uuid4(), uuid.uuid4()
    assert "projected-offset" not in (await stats(ada)).headers
    paid = order_event(OrderPaid, ada.id, first, 3, "paid")
    known = await applied(ada, paid)
    assert (known.json()["orders"], known.json()["paid"]) == (1, 1)
    for nothing_new in (paid, order_event(OrderConfirmed, ada.id, first, 2, "confirmed")):
        assert (await applied(ada, nothing_new)).json() == known.json()
    last = await applied(ada, order_event(OrderPlaced, ada.id, second, 1, "pending"))
    assert last.json() == known.json() | {"orders": 2}

    assert "projected-offset" not in (await stats(bob)).headers
    assert (await applied(bob, order_event(OrderPlaced, bob.id, uuid.uuid4(), 1, "pending"))).json()["orders"] == 1
    same = await stats(ada, **{"If-None-Match": last.headers["etag"]})
    assert (same.status_code, same.headers["projected-offset"]) == (304, last.headers["projected-offset"])


async def test_whoever_reads_meanwhile_finds_in_the_statistics_what_the_offset_promises(
    client: httpx.AsyncClient, register: Any, worker: httpx.AsyncClient, put: Put
) -> None:
    ada = await register("ada")
    last: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def read() -> set[tuple[int, int]]:
        """Pairs of offset and orders counted, until the last order is."""
        seen: set[tuple[int, int]] = set()
        while not last.done() or max(seen)[0] < last.result():
            answer = await client.get(f"{ada.path}/stats", headers=ada.bearer)
            seen.add((int(answer.headers.get("projected-offset", -1)), answer.json()["orders"]))
        return seen

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read()) for _ in range(4)]
        placed = (order_event(OrderPlaced, ada.id, uuid.uuid4(), 1, "pending") for _ in range(150))
        offsets = [await put(event) for event in placed]
        last.set_result(offsets[-1])
    for offset, counted in set().union(*(reader.result() for reader in readers)):
        assert counted == bisect_right(offsets, offset)
