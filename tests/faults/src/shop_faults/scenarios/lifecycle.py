"""Processes that come and go in order: restarts nobody may notice, consumers that join and leave all the time."""

import asyncio
import math
import signal
import time
from typing import Final

from shop_cluster.services import SERVICES
from shop_common.kafka.topics import GROUPS
from shop_faults.lab import Topology
from shop_faults.report import p99
from shop_faults.scenario import Run, Scenario
from shop_faults.snapshot import read_offsets

_BEAT_SECONDS: Final = 3.0
_BEATS_A_ROUND: Final = 3
_LEAST_BEATS: Final = 6
_WORKERS: Final = ("users-worker", "orders-worker")
_DRAIN: Final = {f"{service}_HTTP__DRAIN_SECONDS": "1" for service in ("USERS", "ORDERS", "GATEWAY")} | {
    "GATEWAY_UPSTREAM__IDLE_SECONDS": "0.5"  # less than that, as in real life
}
_PATIENT: Final = {"GATEWAY_DEADLINES__DASHBOARD_SECONDS": "6", "GATEWAY_DEADLINES__SECTION_SECONDS": "5"}
"""A process that starts takes a whole core of two for a second: that makes answers late, and loses none."""
_STOP_SECONDS: Final = 35.0
"""Wait for the balancer, requests, consumers, relay, pools, spans: the sum of their bounds."""
_WINDOW_SECONDS: Final = 8.0
_MOST_WINDOWS: Final = 8
_NOISE_MILLISECONDS: Final = 50.0
"""Of two cores that another cluster shares; whoever waits for a collector waits for seconds."""


async def restart_each(run: Run) -> None:
    """Every process in turn, two of each; nobody's request may fail."""
    for name in SERVICES:
        for each in (name, f"{name}-2"):
            async with run.fault(f"restart {each}"):
                await run.lab.parts[each].restart(_STOP_SECONDS)
    failed = [sample for sample in run.load.samples if not sample.status.isdigit() or sample.status >= "500"]
    run.check("no request failed", ok=not failed, detail=f"{len(failed)} of {len(run.load.samples)}: {failed[:3]}")


async def storm(run: Run) -> None:
    """A second member of each group joins, and leaves or is killed, every three seconds."""
    before = await _committed(run)
    async with run.fault("members come and go"):
        for beat in range(max(_LEAST_BEATS, run.rounds * _BEATS_A_ROUND)):
            for name in _WORKERS:
                part = run.lab.parts[f"{name}-2"]
                part.keep_alive = False
                if part.pid is None:
                    await part.start()
                elif run.numbers.random() < 0.5:
                    part.send(signal.SIGTERM)
                else:
                    await part.kill()
            await asyncio.sleep(_BEAT_SECONDS)
            if beat % _BEATS_A_ROUND == 0:
                await run.check_commits()
        for name in _WORKERS:
            part = run.lab.parts[f"{name}-2"]
            await part.stop(_STOP_SECONDS)
            await part.start()
            part.keep_alive = True
    after = await _committed(run)
    moved = {group: after[group] - before[group] for group in GROUPS}
    run.check("throughput", ok=all(moved.values()), detail=f"records done meanwhile: {moved}")


async def _committed(run: Run) -> dict[str, int]:
    committed, _ = await read_offsets(run.lab.state)
    return {group: sum(max(offset, 0) for offset in committed[group].values()) for group in GROUPS}


async def lose_the_collector(run: Run) -> None:
    """Spans go nowhere, for some windows between as many in which they arrive; the answers are as fast."""
    heard, lost, window, is_as_fast = math.inf, math.inf, 0, False
    # Whoever shares the machine only ever adds to a window, and a collector that is waited for adds to each of them.
    while window < max(2, run.rounds // 2) or (window < _MOST_WINDOWS and not is_as_fast):
        heard = min(heard, await _window(run))
        async with run.fault("collector lost"):
            await run.lab.proxies["otlp_http"].black_hole()
            lost = min(lost, await _window(run))
            if window == 0:
                await run.lab.parts["users"].restart(_STOP_SECONDS)  # and its exit is bounded
            await run.lab.proxies["otlp_http"].pass_through()
        window += 1
        is_as_fast = lost <= 1.1 * heard + _NOISE_MILLISECONDS
    detail = f"{lost:.1f} ms against {heard:.1f} ms, quietest of {window} windows"
    run.check("p99 without a collector", ok=is_as_fast, detail=detail)


async def _window(run: Run) -> float:
    since = time.monotonic()
    await asyncio.sleep(_WINDOW_SECONDS)
    return p99(sample for sample in run.samples_of("place", "dashboard", since=since)) or 0.0


SCENARIOS: Final = (
    Scenario(
        "rolling-restart",
        "rolling restart",
        restart_each,
        30,
        Topology(twice=frozenset(SERVICES), variables=_DRAIN | _PATIENT, balanced=True),
        customers=6,
        pause_seconds=0.2,
    ),
    Scenario("rebalance-storm", "rebalance storm", storm, 30, Topology(twice=frozenset(_WORKERS))),
    Scenario(
        "collector-lost",
        "Jaeger down",
        lose_the_collector,
        20,
        Topology(proxied=frozenset({"otlp_http"}), traced=True),
    ),
)
