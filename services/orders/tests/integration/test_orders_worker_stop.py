"""A worker told to stop ends in bounded time, and in order, whatever does not answer any more."""

import asyncio
import os
import re
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from shop_cluster.ports import pick_free_ports
from shop_cluster.running import ensure_server
from shop_cluster.state import State
from shop_cluster.supervise import Supervisor
from shop_cluster.throw_away import close_state, open_state
from shop_common.cursors import CursorCodec
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.kafka.topics import create_topics
from shop_common.mongo import open_mongo
from shop_common.settings import MongoSettings
from shop_common.tokens import Principal
from shop_orders.service import OrderService
from shop_orders.store.orders import OrderStore
from shop_orders.store.users import UserReplica

GRACE_SECONDS = 45
"""What docker-compose.yml gives a container before it is killed."""
ITEMS = (OrderItem(sku="TEA", quantity=2, unit_price=Money(amount=5, currency="EUR")),)


class Servers:
    """Of this file's own, which it may freeze."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.kafka = f"127.0.0.1:{state.ports['kafka']}"
        url = f"mongodb://127.0.0.1:{state.ports['mongo']}/?directConnection=true"
        self.mongo = MongoSettings(url=SecretStr(url), database="orders")

    async def start(self) -> None:
        for name in ("mongo", "kafka"):
            await ensure_server(self._state, name)
        await create_topics(self.kafka)

    async def place(self) -> None:
        async with open_mongo(self.mongo, "tests") as mongo:
            cursors = CursorCodec("orders", SecretStr("k" * 32))
            service = OrderService(OrderStore(mongo.database), UserReplica(mongo.database), cursors)
            await service.place(Principal(str(uuid.uuid4()), "customer", 0), uuid.uuid4().hex, ITEMS)

    def signal(self, name: str, number: int) -> None:
        os.kill(Supervisor(self._state).processes()[name]["pid"], number)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers") / "state"
    started = Servers(open_state(folder, os.getpid()))
    asyncio.run(started.start())
    yield started
    close_state(folder)


@pytest.mark.parametrize("also_mongo", [False, True], ids=["Kafka frozen", "everything frozen"])
async def test_while_an_event_is_sent_and_nobody_answers(
    servers: Servers, eventually: Any, *, also_mongo: bool
) -> None:
    port = pick_free_ports()["orders"]
    environment = os.environ | {
        "ORDERS_HTTP__PORT": str(port),
        "ORDERS_MONGO__URL": servers.mongo.url.get_secret_value(),
        "ORDERS_MONGO__DATABASE": servers.mongo.database,
        "ORDERS_KAFKA__BOOTSTRAP_SERVERS": servers.kafka,
        "ORDERS_TOKENS__JWKS_URL": "http://127.0.0.1:9/jwks.json",
        "ORDERS_CURSOR_KEY": "k" * 32,
    }
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop_orders.worker", env=environment, stdout=PIPE, stderr=PIPE
    )

    async def answers(path: str, pattern: str) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{port}{path}")
        except httpx.TransportError:
            assert worker.returncode is None, "it ended"
            return False
        return answer.status_code == 200 and re.search(pattern, answer.text) is not None

    try:
        await eventually(lambda: answers("/readyz", "ok"))
        servers.signal("kafka", signal.SIGSTOP)
        await servers.place()
        await eventually(lambda: answers("/metrics", r"(?m)^shop_outbox_pending [1-9]"))
        if also_mongo:
            servers.signal("mongo", signal.SIGSTOP)
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(GRACE_SECONDS):
            _, err = await worker.communicate()
        assert (worker.returncode, err) == (0, b"")
    finally:
        for name in ("kafka", "mongo"):
            servers.signal(name, signal.SIGCONT)
        if worker.returncode is None:
            worker.kill()
            await worker.communicate()
