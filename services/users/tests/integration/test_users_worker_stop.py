"""A worker told to stop ends in bounded time, and in order, whatever does not answer any more."""

import asyncio
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop_cluster.ports import pick_free_ports
from shop_cluster.running import ensure_server
from shop_cluster.state import State
from shop_cluster.supervise import Supervisor
from shop_cluster.throw_away import close_state, open_state
from shop_common.events import orders
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderPlaced
from shop_common.events.users import UserRegistered
from shop_common.kafka.producer import open_producer
from shop_common.kafka.settings import KafkaSettings
from shop_common.kafka.topics import create_topics
from shop_common.postgres import open_postgres
from shop_common.settings import PostgresSettings
from shop_users.migrate import migrate
from shop_users.models import User
from shop_users.settings import MigrateSettings
from shop_users.store.users import UserStore

GRACE_SECONDS = 45
"""What docker-compose.yml gives a container before it is killed."""
NOW = datetime.now(UTC)


class Servers:
    """Of this file's own, which it may freeze."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{state.ports['kafka']}")
        password = state.secret("postgres_superuser")
        port = state.ports["postgres"]
        self.postgres = PostgresSettings(dsn=f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres")

    async def start(self) -> None:
        for name in ("postgres", "kafka"):
            await ensure_server(self._state, name)
        await create_topics(self.kafka.bootstrap_servers)
        await migrate(MigrateSettings(postgres=self.postgres))

    def signal(self, name: str, number: int) -> None:
        pid = Supervisor(self._state).processes()[name]["pid"]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()  # PostgreSQL's are its connections
        for each in (pid, *map(int, children)):
            os.kill(each, number)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers") / "state"
    started = Servers(open_state(folder, os.getpid()))
    asyncio.run(started.start())
    yield started
    close_state(folder)


class Worker:
    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> str:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(self._url + path)
        except httpx.TransportError:
            assert self.process.returncode is None, "it ended"
            return ""
        return answer.text if answer.status_code == 200 else ""

    async def is_ready(self) -> bool:
        return bool(await self.get("/readyz"))

    async def is_handling(self) -> bool:
        return 'shop_events_in_flight{group="users-worker"} 1.0' in await self.get("/metrics")

    async def stops(self) -> tuple[int | None, str]:
        """Its code, and what it said on standard error."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(GRACE_SECONDS):
            _, err = await self.process.communicate()
        return self.process.returncode, err.decode()


@asynccontextmanager
async def working(servers: Servers, folder: Path) -> AsyncIterator[Worker]:
    port = pick_free_ports()["users"]
    environment = os.environ | {
        "USERS_HTTP__PORT": str(port),
        "USERS_POSTGRES__DSN": servers.postgres.dsn,
        "USERS_KAFKA__BOOTSTRAP_SERVERS": servers.kafka.bootstrap_servers,
        "USERS_SIGNING_KEYS_DIR": str(folder),
        "USERS_CURSOR_KEY": "k" * 32,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop_users.worker", env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield Worker(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_with_kafka_frozen(servers: Servers, tmp_path: Path, until: Any) -> None:
    async with working(servers, tmp_path) as worker:
        await until(worker.is_ready)
        servers.signal("kafka", signal.SIGSTOP)
        try:
            ada = User(uuid.uuid4(), "ada@example.com", "ada", None, "customer", True, 1, NOW, NOW)  # noqa: FBT003 - fields in order
            async with open_postgres(servers.postgres, "tests") as postgres:
                await UserStore(postgres, lambda: None).insert(ada, "", ada.to_event(UserRegistered))

            async def is_sending() -> bool:
                return "shop_outbox_pending 1.0" in await worker.get("/metrics")

            await until(is_sending)
            assert await worker.stops() == (0, "")
        finally:
            servers.signal("kafka", signal.SIGCONT)


async def test_with_everything_frozen(servers: Servers, tmp_path: Path, until: Callable[..., Any]) -> None:
    """While a handler waits for the database, and the relay for what is pending."""
    item = OrderItem(sku="sku", quantity=2, unit_price=Money(amount=1250, currency="EUR"))
    placed = OrderPlaced(
        id=uuid.uuid4(),
        user_id=uuid.uuid4(),
        status="pending",
        items=(item,),
        total=Money(amount=2500, currency="EUR"),
        version=1,
        created_at=NOW,
        updated_at=NOW,
    ).to_event()
    async with working(servers, tmp_path) as worker:
        await until(worker.is_ready)
        servers.signal("postgres", signal.SIGSTOP)
        try:
            async with open_producer(servers.kafka) as producer:
                await producer.send(placed, orders.TOPIC)
            await until(worker.is_handling)
            servers.signal("kafka", signal.SIGSTOP)
            assert await worker.stops() == (0, "")
        finally:
            servers.signal("postgres", signal.SIGCONT)
            servers.signal("kafka", signal.SIGCONT)
