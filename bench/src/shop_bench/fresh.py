"""From a committed write to the first fresh read through another worker, in a whole cluster with two gateways."""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

import httpx

from shop_bench.peers import throw_away_cluster, wait_for
from shop_bench.result import Bar, Result
from shop_cluster import jaeger
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST, pick_free_port
from shop_cluster.services import SERVICES, command, environment
from shop_cluster.state import State
from shop_cluster.supervise import Program, Supervisor
from shop_cluster.up import SilentReporter, bring_up
from shop_common.http import open_http_client
from shop_common.settings import HttpClientSettings

CUSTOMERS: Final = 32
CLOSED_SECONDS: Final = 5.0
OPEN_SECONDS: Final = 15.0
_GIVE_UP_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 0.001
_SERVER_ERROR: Final = 500
_PASSWORD: Final = "a password for benchmarks"  # noqa: S105 - of users that are thrown away
_BAR_MS: Final = 250
_HEADINGS: Final = (
    "writes/s offered",
    "of a capacity of",
    "writes",
    "write p50 ms",
    "read p50 ms",
    "commit → fresh p50 ms",
    "p99 ms",
    "max ms",
    "reads meanwhile of what was before",
    "reads from a cache",
)


@dataclass(slots=True)
class Customer:
    user_id: str
    bearer: dict[str, str]
    version: int = 1


@dataclass(frozen=True, slots=True)
class Observation:
    """One write through A and the reads through B after it; milliseconds."""

    read: float
    write: float
    delay: float
    """From the write's answer to the end of the read that had it."""
    stale: int
    hits: int
    """Of the reads through B, those that a cache answered."""


@dataclass(slots=True)
class Pair:
    """Two gateways over one cluster, and who uses them, each doing one thing at a time."""

    a: httpx.AsyncClient
    b: httpx.AsyncClient
    free: asyncio.Queue[Customer]
    seen: list[Observation] = field(default_factory=list)
    refused: int = 0
    """Reads that were answered with an error, since the list was emptied."""

    async def cycle(self) -> None:
        customer = await self.free.get()
        try:
            self.seen.append(await self._observe(customer))
        finally:
            self.free.put_nowait(customer)

    async def _observe(self, customer: Customer) -> Observation:
        started = time.perf_counter()
        await self._read(customer)  # B has it now, wherever it keeps what it has
        read = time.perf_counter()
        headers = {"Content-Type": "application/merge-patch+json", "If-Match": f'"{customer.version}"'}
        body = json.dumps({"full_name": f"Ada {secrets.token_hex(4)}"})
        response = await self.a.patch(f"/v1/users/{customer.user_id}", headers=customer.bearer | headers, content=body)
        written = time.perf_counter()
        _require(response)
        customer.version = response.json()["version"]
        stale, hits = 0, 0
        while True:
            version, hit = await self._read(customer)
            hits += hit
            if version >= customer.version:
                break
            stale += 1
            if time.perf_counter() > written + _GIVE_UP_SECONDS:
                raise ClusterError(f"a write was not seen within {_GIVE_UP_SECONDS:g} s through the other gateway")
            await asyncio.sleep(_PAUSE_SECONDS)
        ended = time.perf_counter()
        return Observation((read - started) * 1e3, (written - read) * 1e3, (ended - written) * 1e3, stale, hits)

    async def _read(self, customer: Customer) -> tuple[int, bool]:
        response = await self.b.get(f"/v1/users/{customer.user_id}/dashboard", headers=customer.bearer)
        if response.status_code >= _SERVER_ERROR:  # a saturated service misses its deadline: asked again
            self.refused += 1
            return 0, False
        _require(response)
        return response.json()["user"]["version"], "hit" in response.headers.get("cache-status", "")


def fresh() -> Result:
    if jaeger.find_jaeger() is None:
        raise ClusterError("there is no Jaeger, which the cluster would build meanwhile", remedy="`make up` builds it")
    for service in ("USERS", "ORDERS", "GATEWAY"):
        os.environ.setdefault(f"{service}_TRACING__SAMPLE_RATIO", "0.1")
    with throw_away_cluster() as state:
        return asyncio.run(_fresh(state))


async def _fresh(state: State) -> Result:
    await bring_up(state, SilentReporter())
    async with _open_pair(state) as pair:
        await _closed(pair, 2.0)
        capacity = await _closed(pair, CLOSED_SECONDS)
        offered = capacity / 2
        await _open(pair, offered, OPEN_SECONDS)
        seen, refused = pair.seen, pair.refused
    delays = sorted(each.delay for each in seen)
    row = [
        f"{offered:.0f}",
        f"{capacity:.0f}",
        f"{len(seen):,}",
        f"{_at([each.write for each in seen], 0.5):.1f}",
        f"{_at([each.read for each in seen], 0.5):.1f}",
        *(f"{_at(delays, share):.1f}" for share in (0.5, 0.99, 1)),
        str(sum(each.stale for each in seen)),
        str(sum(each.hits for each in seen)),
    ]
    notes = [f"{refused} reads were answered with an error and asked again."] if refused else []
    if not any(each.hits for each in seen):
        notes.append("No read came from a cache (no `Cache-Status: …; hit`): this is what a live read takes.")
    p99 = _at(delays, 0.99)
    bars = [Bar(f"p99 within {_BAR_MS} ms", f"{p99:.1f} ms", p99 <= _BAR_MS)]
    return Result("fresh", _HEADINGS, [row], notes, bars, raw=[asdict(each) for each in seen])


@asynccontextmanager
async def _open_pair(state: State) -> AsyncIterator[Pair]:
    a, b = (f"http://{HOST}:{port}" for port in (state.ports["gateway"], pick_free_port()))
    variables = environment(state, "gateway")
    variables |= {"GATEWAY_HTTP__PORT": b.rpartition(":")[2], "GATEWAY_HTTP__METRICS_PORT": str(pick_free_port())}
    Supervisor(state).apply(Program("gateway-b", command(SERVICES["gateway"]), variables))
    await wait_for(state, "gateway-b", f"{b}/readyz", {})
    async with AsyncExitStack() as stack:
        settings = HttpClientSettings(total_seconds=10)
        pair = Pair(
            a=await stack.enter_async_context(open_http_client(settings)),
            b=await stack.enter_async_context(open_http_client(settings)),
            free=asyncio.Queue(),
        )
        pair.a.base_url, pair.b.base_url = httpx.URL(a), httpx.URL(b)
        for _ in range(CUSTOMERS):
            pair.free.put_nowait(await _join(pair.a))
        yield pair


async def _join(client: httpx.AsyncClient) -> Customer:
    name = f"ada-{secrets.token_hex(6)}"
    new = {"email": f"{name}@example.com", "username": name, "password": _PASSWORD}
    registered = await client.post("/v1/users", json=new)
    _require(registered)
    token = await client.post("/v1/auth/token", data={"username": name, "password": _PASSWORD})
    _require(token)
    return Customer(registered.json()["id"], {"Authorization": f"Bearer {token.json()['access_token']}"})


async def _closed(pair: Pair, seconds: float) -> float:
    """Everybody without a pause: cycles a second."""
    ends = time.perf_counter() + seconds
    pair.seen, pair.refused = [], 0

    async def go_on() -> None:
        while time.perf_counter() < ends:
            await pair.cycle()

    async with asyncio.TaskGroup() as group:
        for _ in range(CUSTOMERS):
            group.create_task(go_on())
    return len(pair.seen) / seconds


async def _open(pair: Pair, rate: float, seconds: float) -> None:
    """A cycle is begun at a fixed rate, whatever became of the earlier ones."""
    pair.seen, pair.refused = [], 0
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(started + number / rate - time.perf_counter())
            group.create_task(pair.cycle())


def _require(response: httpx.Response) -> None:
    if not response.is_success:
        raise ClusterError(f"{response.request.url.path} answered {response.status_code}: {response.text[:200]}")


def _at(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]
