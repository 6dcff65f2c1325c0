"""Whether each part really answers, asked in its own protocol."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx
from aiokafka.client import AIOKafkaClient
from pymongo import AsyncMongoClient
from redis.asyncio import Connection

from shop_cluster.databases import superuser_connection
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST
from shop_cluster.state import State
from shop_cluster.supervise import STOPPED_STATES, Supervisor

ATTEMPT_SECONDS = 3.0
MAX_EXITS = 3
Probe = Callable[[State], Awaitable[None]]


def mongo_url(state: State) -> str:
    return f"mongodb://{HOST}:{state.ports['mongo']}/?directConnection=true"


async def probe_postgres(state: State) -> None:
    async with superuser_connection(state) as connection:
        await connection.fetchval("SELECT 1")


async def probe_redis(state: State) -> None:
    connection = Connection(host=HOST, port=state.ports["redis"])  # a client cut short by a deadline leaves it open
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("PING")
        await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


async def probe_kafka(state: State) -> None:
    client = AIOKafkaClient(bootstrap_servers=f"{HOST}:{state.ports['kafka']}")
    try:
        await client.bootstrap()
        if not client.cluster.brokers():
            raise ConnectionError("no broker in the metadata")
    finally:
        await client.close()


async def probe_mongo(state: State) -> None:
    async with AsyncMongoClient[dict[str, object]](mongo_url(state), serverSelectionTimeoutMS=2000) as client:
        hello = await client.admin.command("isMaster")
        if hello.get("info") == "Does not have a valid replica set config" or hello.get("isreplicaset"):
            member = {"_id": 0, "host": f"{HOST}:{state.ports['mongo']}"}
            await client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        if not hello.get("ismaster"):
            raise ConnectionError("not primary yet")


async def probe_mail(state: State) -> None:
    reader, writer = await asyncio.open_connection(HOST, state.ports["mail"])
    try:
        if not (await reader.readline()).startswith(b"220"):
            raise ConnectionError("no SMTP greeting")
    finally:
        writer.close()
        await writer.wait_closed()


def http_probe(port_name: str, path: str) -> Probe:
    """A probe that wants 200 from a path."""

    async def probe(state: State) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"http://{HOST}:{state.ports[port_name]}{path}", timeout=ATTEMPT_SECONDS)
        if response.status_code != httpx.codes.OK:
            raise ConnectionError(f"{path} says {response.status_code}: {response.text[:300]}")

    return probe


PROBES: Mapping[str, Probe] = {
    "postgres": probe_postgres,
    "redis": probe_redis,
    "kafka": probe_kafka,
    "mongo": probe_mongo,
    "mail": probe_mail,
    "jaeger": http_probe("jaeger_health", "/status"),
    "users": http_probe("users", "/readyz"),
    "orders": http_probe("orders", "/readyz"),
    "users-worker": http_probe("users_worker", "/readyz"),
    "orders-worker": http_probe("orders_worker", "/readyz"),
    "gateway": http_probe("gateway", "/readyz"),
}


async def failure_of(state: State, name: str) -> str | None:
    """Probe once: None when ready, else what it says."""
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            await PROBES[name](state)
    except Exception as error:  # noqa: BLE001 - each client has errors of its own; all of them mean "not yet"
        return f"{type(error).__name__}: {error}".rstrip(": ")
    return None


async def wait_until_ready(state: State, supervisor: Supervisor, name: str, *, seconds: float) -> None:
    """Return when the part answers; raise with its last log lines when it keeps ending or the time is over."""
    deadline = time.monotonic() + seconds
    exits: set[float] = set()
    while (failure := await failure_of(state, name)) is not None:
        info = await asyncio.to_thread(lambda: supervisor.processes().get(name, {}))
        exits.add(info.get("stop", 0))
        ended = info.get("statename") in STOPPED_STATES or len(exits - {0}) >= MAX_EXITS
        if ended or time.monotonic() > deadline:
            cause = "keeps ending" if ended else f"is not ready after {seconds:.0f} s ({failure})"
            raise ClusterError(
                f"{name} {cause}",
                remedy=f"the whole log: {state.log(name)}",
                log_lines=last_lines(state, name),
            )
        await asyncio.sleep(0.1)


def last_lines(state: State, name: str, count: int = 15) -> list[str]:
    log = state.log(name)
    return log.read_text(errors="replace").splitlines()[-count:] if log.exists() else []
