"""Dashboards from memory while everything that keeps them true fails: never older than a token or their age allows."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

import httpx

from shop_faults.account import Account
from shop_faults.lab import Topology
from shop_faults.scenario import Run, Scenario
from shop_faults.shopper import Shopper

_CUSTOMERS: Final = 5
_CALM_SECONDS: Final = 10.0
_BROKEN_SECONDS: Final = 7.0
_PROVEN_SECONDS: Final = 3.0
_MARGIN_SECONDS: Final = 0.5
_SETTINGS: Final = {
    "GATEWAY_CACHE__FRESH_SECONDS": "1",
    "GATEWAY_CACHE__PROVEN_SECONDS": str(_PROVEN_SECONDS),
    "GATEWAY_CACHE__REVALIDATE_SECONDS": "1",
}
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class _Read:
    asked_at: float
    done_at: float
    version: int
    elsewhere: bool
    """Not through the gateway that the writer uses."""
    is_hit: bool


@dataclass(slots=True)
class _Watched:
    """One customer: each version with the time at which its writer was told of it, and what readers saw elsewhere."""

    shopper: Shopper
    account: Account
    told: list[tuple[float, int]] = field(default_factory=list)
    reads: list[_Read] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def version_before(self, moment: float) -> int:
        return max((version for at, version in self.told if at <= moment), default=1)


async def keep_fresh(run: Run) -> None:
    """Each customer writes through one gateway and is read through the other, as fast as that goes."""
    watched = [_Watched(*await run.load.newcomer()) for _ in range(_CUSTOMERS)]
    stop = asyncio.Event()
    async with httpx.AsyncClient(timeout=8, trust_env=False) as client, asyncio.TaskGroup() as tasks:
        for each in watched:
            tasks.create_task(_write(each, stop))
            for url in run.lab.gateway_urls:
                tasks.create_task(_read(each, client, url, stop, with_token=True))
                tasks.create_task(_read(each, client, url, stop, with_token=False))
        begin = time.monotonic()
        await asyncio.sleep(_CALM_SECONDS)
        calm = [delay for each in watched for delay in _delays(each, begin, time.monotonic() - 1)]
        for name, break_it, mend_it in _faults(run):
            async with run.fault(name):
                await break_it()
                await asyncio.sleep(_BROKEN_SECONDS)
                await mend_it()
        stop.set()
    broken = [line for each in watched for line in each.broken]
    reads = [read for each in watched for read in each.reads]
    run.check("nothing older", ok=not broken, detail=f"{len(broken)} of {len(reads)} reads: {broken[:3]}")
    hits = sum(read.is_hit for read in reads)
    run.check("from memory", ok=hits > len(reads) / 10, detail=f"{hits} of {len(reads)}")
    cut = quantiles(calm, n=100) if len(calm) > 1 else [0.0] * 99
    detail = f"{len(calm)} changes in the calm, seen elsewhere after {cut[49]:.3f} s (p50), {cut[98]:.3f} s (p99)"
    run.check("changes are seen", ok=bool(calm), detail=detail)
    print(detail)  # noqa: T201 - the figure of this scenario


def _faults(run: Run) -> list[tuple[str, Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]]:
    proxies, relay = run.lab.proxies, run.lab.parts["users-worker"]

    async def end_relay() -> None:
        relay.keep_alive = False
        await relay.kill()

    async def start_relay() -> None:
        await relay.start()
        relay.keep_alive = True

    return [
        ("Kafka away", proxies["kafka"].refuse, proxies["kafka"].pass_through),
        ("Redis away", proxies["redis"].refuse, proxies["redis"].pass_through),
        ("Kafka silent", proxies["kafka"].black_hole, proxies["kafka"].pass_through),
        ("no relay", end_relay, start_relay),
    ]


async def _write(each: _Watched, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if not await each.shopper.change(each.account):
            return  # its version is not known from now on: others go on
        each.told.append((time.monotonic(), each.account.version))
        await asyncio.sleep(0.02)


async def _read(each: _Watched, client: httpx.AsyncClient, url: str, stop: asyncio.Event, *, with_token: bool) -> None:
    """A token forces what it names; without one an answer that calls itself fresh is as old as its age at most."""
    while not stop.is_set():
        asked_at = time.monotonic()
        floor = each.version_before(asked_at if with_token else asked_at - _PROVEN_SECONDS - _MARGIN_SECONDS)
        headers = dict(each.account.bearer)
        if with_token and (token := each.account.tokens.get(each.account.user_id)):
            headers["Consistency-Token"] = token
            floor = each.account.version
        try:
            response = await client.get(f"{url}/v1/me/dashboard", headers=headers)
        except httpx.HTTPError:
            response = None
        if response is not None and response.status_code == _OK:
            dashboard = response.json()
            version, state = dashboard["user"]["version"], dashboard["_sections"]["user"]["state"]
            if version < floor and (with_token or state == "fresh"):
                each.broken.append(f"{version} after {floor}, {state}, with{'' if with_token else 'out'} a token")
            if not with_token:
                is_hit = "hit" in response.headers.get("cache-status", "")
                elsewhere = url != each.shopper.gateway_url
                each.reads.append(_Read(asked_at, time.monotonic(), version, elsewhere, is_hit))
        await asyncio.sleep(0.01)


def _delays(each: _Watched, begin: float, end: float) -> list[float]:
    """Seconds from each change until it, or what came after it, was first shown elsewhere to one without a token."""
    delays = []
    for told_at, version in each.told:
        if begin <= told_at <= end:
            later = (read for read in each.reads if read.elsewhere and read.asked_at >= told_at)
            seen = [read.done_at for read in later if read.version >= version]
            delays += [min(seen) - told_at] if seen else []
    return delays


SCENARIOS: Final = (
    Scenario(
        "freshness",
        "freshness",
        keep_fresh,
        30,
        Topology(twice=frozenset({"gateway"}), proxied=frozenset({"kafka", "redis"}), variables=_SETTINGS),
        customers=2,
    ),
)
