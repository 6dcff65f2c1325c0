"""The gateway as a process of its own, and somebody whose data changes."""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from shop_cluster.ports import pick_free_port
from shop_common.events.envelope import Event, event_id
from shop_common.kafka.topics import create_topics
from shop_common.testing import until

COMMAND = (sys.executable, "-m", "shop_gateway.app")


@dataclass(frozen=True, slots=True)
class Running:
    process: asyncio.subprocess.Process
    port: int
    metrics_port: int

    async def say(self, text: bytes) -> bytes:
        """Send bytes on a connection of their own; whatever comes back until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(text)
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def is_live(self) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{self.port}/livez")).status_code == 200
        except httpx.TransportError:
            return False

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of what has that name and those labels."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in wanted))


def environment(**variables: object) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return inherited | {f"GATEWAY_{name}": str(value) for name, value in variables.items()}


StartGateway = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start_gateway(users: Any, orders: Any, redis_url: str) -> AsyncIterator[StartGateway]:
    """Start one with further variables, in front of the two upstreams; it ends with the test."""
    started: list[asyncio.subprocess.Process] = []
    keys = f"{uuid.uuid4()}:"

    async def start(stdout: Any = asyncio.subprocess.DEVNULL, **variables: object) -> Running:
        port, metrics_port = pick_free_port(), pick_free_port()
        usual: dict[str, object] = {
            "HTTP__PORT": port,
            "HTTP__METRICS_PORT": metrics_port,
            "USERS_URL": users.url,
            "ORDERS_URL": orders.url,
            "REDIS__URL": redis_url,
            "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
            "RATE_LIMIT__KEY_PREFIX": keys,
            "RATE_LIMIT__REQUESTS": 100_000,
            "RATE_LIMIT__LOGIN__REQUESTS": 100_000,
        }
        process = await asyncio.create_subprocess_exec(*COMMAND, env=environment(**(usual | variables)), stdout=stdout)
        started.append(process)
        gateway = Running(process, port, metrics_port)
        await until(gateway.is_live)
        assert process.returncode is None, "somebody else has its port"
        return gateway

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def running(start_gateway: StartGateway) -> Running:
    return await start_gateway()


@pytest.fixture
async def run_with() -> Callable[..., Awaitable[tuple[int | None, bytes]]]:
    """Run one with exactly these variables until it ends; its code and what it said on standard error."""

    async def run(**variables: object) -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, env=environment(**variables), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        return process.returncode, errors

    return run


@pytest.fixture
def ada() -> str:
    """A user of this test's own: others' events are in the same topics."""
    return str(uuid.uuid4())


@pytest.fixture
def as_ada(issuer: Any, ada: str) -> dict[str, str]:
    headers: dict[str, str] = issuer.bearer(ada)
    return headers


@pytest.fixture
def items(users: Any, orders: Any, act: Any, ada: str) -> list[dict[str, Any]]:
    """Ada's orders, whose dashboard is worth compressing."""
    items = [{"id": f"order-{number}", "total": {"amount": 450, "currency": "EUR"}} for number in range(20)]
    users.on(f"GET /v1/users/{ada}", act.answer({"id": ada, "version": 1}, 200, 'ETag: "1"'))
    users.on(f"GET /v1/users/{ada}/stats", act.answer({"orders": 0}))
    orders.on("GET /v1/orders", act.answer({"items": items}))
    return items


Tell = Callable[..., Awaitable[int]]


@pytest.fixture
async def tell(kafka_bootstrap: str, ada: str) -> AsyncIterator[Tell]:
    """Put an event of Ada's into its topic; its offset."""
    await create_topics(kafka_bootstrap)
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()

    async def put(kind: str, subject: str, version: int, user_id: str = ada) -> int:
        topic = f"{kind.partition('.')[0]}.events.v1"
        event = Event(
            event_id(subject, version), kind, "tests", subject, version, datetime.now(UTC), user_id, b"{}", None
        )
        key, value, headers = event.to_kafka()
        return int((await producer.send_and_wait(topic, value=value, key=key, headers=headers)).offset)

    yield put
    await producer.stop()
