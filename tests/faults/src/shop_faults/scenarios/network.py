"""Connections that are cut, refused or swallowed, and dependencies that are slow."""

import asyncio
from typing import Final

from shop_faults.lab import Topology
from shop_faults.proxy import TcpProxy
from shop_faults.scenario import Run, Scenario

_PROXIED: Final = ("kafka", "mongo", "orders", "postgres", "redis", "users")
_WAYS: Final = ("cut", "refuse", "to_server", "to_client", "both")
_CUT_SECONDS: Final = 8.0
_SLOW_SECONDS: Final = 2.0
_DASHBOARD_SECONDS: Final = 1.0
_GRACE_SECONDS: Final = 0.5


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
    """Whatever needs users is late or refused in time; what does not is as fast as ever."""
    for _ in range(max(1, run.rounds // 3)):
        async with run.fault("users slow"):
            await run.lab.proxies["users"].delay(_SLOW_SECONDS)
            begin = asyncio.get_running_loop().time()
            await asyncio.sleep(_CUT_SECONDS)
            samples = [each for each in run.load.samples if each.at >= begin]
            await run.lab.proxies["users"].pass_through()
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


SCENARIOS: Final = (
    Scenario("network-cut", "network cut", cut, 30, Topology(proxied=frozenset(_PROXIED))),
    Scenario("slow-users", "slow dependency", slow_users, 20, Topology(proxied=frozenset({"users"}))),
)
