"""Connections that are cut, refused or swallowed, and dependencies that are slow."""

import asyncio
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from shop_cluster.ports import HOST
from shop_faults.account import Account
from shop_faults.lab import Topology
from shop_faults.proxy import TcpProxy
from shop_faults.scenario import Run, Scenario
from shop_faults.shopper import Shopper

_PROXIED: Final = ("kafka", "mongo", "orders", "postgres", "redis", "users")
_WAYS: Final = ("cut", "refuse", "to_server", "to_client", "both")
_CUT_SECONDS: Final = 8.0
_SLOW_SECONDS: Final = 2.0
_DASHBOARD_SECONDS: Final = 1.0
_GRACE_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.1
_READERS: Final = 6
"""Enough for a breaker, which judges by twenty requests and more."""
_PROFILE: Final = {"upstream": "users", "route": "/v1/users/{user_id}"}
_CLOSED: Final = 0


async def cut(run: Run) -> None:
    """Each connection in another way in turn: both ends at once, or one of them without being told."""
    names = [*_PROXIED]
    run.numbers.shuffle(names)
    for index in range(run.rounds):
        name, way = names[index % len(names)], run.numbers.choice(_WAYS)
        await run.pause(0.2, 1.5)
        async with run.fault(f"{name} {way}"):
            await _break(run.lab.proxies[name], way)
            await asyncio.sleep(run.numbers.uniform(2, _CUT_SECONDS))
            await run.lab.proxies[name].pass_through()
    # No request may have waited for longer than the gateway allows any: pools and commands are bounded.
    slow = [sample for sample in run.load.samples if sample.status in {"ReadTimeout", "PoolTimeout"}]
    run.check("bounded", ok=not slow, detail=f"{len(slow)} requests without an answer in time")


async def _break(proxy: TcpProxy, way: str) -> None:
    match way:
        case "cut":
            await proxy.cut()
        case "refuse":
            await proxy.refuse()
        case "to_server" | "to_client" | "both":
            await proxy.black_hole(way)


async def slow_users(run: Run) -> None:
    """Whatever needs users is late or refused in time, then refused at once; what does not is as fast as ever."""
    shopper, account = await run.load.newcomer()
    for _ in range(max(1, run.rounds // 3)):
        spared_before = await _metric(run, "upstream_spared_total", reason="breaker")
        async with run.fault("users slow"):
            await run.lab.proxies["users"].delay(_SLOW_SECONDS)
            begin = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < begin + _CUT_SECONDS:
                # Else they would share one question, or ask nobody.
                await asyncio.gather(*(shopper.read(account, live=True) for _ in range(_READERS)))
                await asyncio.sleep(_PAUSE_SECONDS)
            samples = [each for each in run.load.samples if each.at >= begin]
            spared = await _metric(run, "upstream_spared_total", reason="breaker")
            await run.lab.proxies["users"].pass_through()
        run.check("breaker opens", ok=spared > spared_before, detail=f"{spared - spared_before} calls were spared")
        await _check_closes(run, shopper, account)
        late = [
            sample
            for sample in samples
            if sample.kind == "dashboard" and sample.milliseconds > 1000 * (_DASHBOARD_SECONDS + _GRACE_SECONDS)
        ]
        run.check("dashboards in time", ok=not late, detail=f"{len(late)} took too long")
        orders = [sample for sample in samples if sample.kind in {"place", "pay", "cancel"}]
        failed = [sample for sample in orders if sample.status >= "500"]
        ok = bool(orders) and not failed
        run.check("orders unaffected", ok=ok, detail=f"{len(failed)} of {len(orders)} failed")


async def _check_closes(run: Run, shopper: Shopper, account: Account) -> None:
    """With three reads that go well; none of them comes while it is open."""
    try:
        async with asyncio.timeout(run.scenario.recovery_seconds):
            while await _metric(run, "breaker_state", method="GET") != _CLOSED:
                await shopper.read(account, live=True)
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        run.check("breaker closes", ok=False, detail=f"not within {run.scenario.recovery_seconds:g} s")


async def _metric(run: Run, name: str, **labels: str) -> float:
    """One value of the gateway's about the profile's route; 0 where there is none yet."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://{HOST}:{run.lab.state.ports['gateway_metrics']}/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"shop_gateway_{name}" and sample.labels == _PROFILE | labels
    )


SCENARIOS: Final = (
    Scenario("network-cut", "network cut", cut, 30, Topology(proxied=frozenset(_PROXIED))),
    Scenario("slow-users", "slow dependency", slow_users, 20, Topology(proxied=frozenset({"users"}))),
)
