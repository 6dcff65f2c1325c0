"""Every failpoint once: a process ends exactly between two steps, and what it left is healed as its table says."""

import asyncio
import time
from itertools import zip_longest
from pathlib import Path
from typing import Final

from shop_cluster.services import SERVICES
from shop_faults.crash import Failpoint
from shop_faults.failpoints import FAILPOINTS
from shop_faults.lab import Topology
from shop_faults.scenario import Run, Scenario
from shop_faults.scenarios.events import open_producer, send_poison

_REACHED_SECONDS: Final = 45.0
_RARE: Final = ("dead_letter", "refresh", "in_transaction", "replica", "change", "login", "register", "mail")
"""Parts of the names of those that are not reached often; the first or second time must do."""
_SESSION_MS: Final = {f"{service}_KAFKA__SESSION_TIMEOUT_MS": "6000" for service in ("USERS", "ORDERS")}
_PARTS: Final = {module: name for name, module in SERVICES.items()}


async def crash_everywhere(run: Run) -> None:
    """One failpoint per process at a time, all processes at once."""
    run.expected_letters = None
    by_process: dict[str, list[Failpoint]] = {}
    for point in FAILPOINTS.values():
        by_process.setdefault(point.process, []).append(point)
    for points in by_process.values():
        run.numbers.shuffle(points)
    async with open_producer(run.lab) as producer:
        for together in zip_longest(*by_process.values()):
            armed = [point for point in together if point is not None]
            tokens = await asyncio.gather(*(_arm(run, point) for point in armed))
            async with run.fault(", ".join(point.name for point in armed)):
                await _wait_for(run, dict(zip(tokens, armed, strict=True)), producer)
    for name in SERVICES:
        if name != "gateway":
            run.lab.sabotage(name)


async def _arm(run: Run, point: Failpoint) -> Path:
    token = run.lab.state.place("tokens", f"{run.seed}-{point.name}")
    at = run.numbers.randint(1, 2 if any(part in point.name for part in _RARE) else 12)
    name = _PARTS[point.process]
    run.lab.sabotage(name, FAILPOINT=point.name, AT=str(at), TOKEN=str(token))
    await run.lab.parts[name].restart()
    return token


async def _wait_for(run: Run, expected: dict[Path, Failpoint], producer: object) -> None:
    """Until each of the processes has killed itself."""
    give_up = time.monotonic() + _REACHED_SECONDS
    while missing := [point.name for token, point in expected.items() if not token.exists()]:
        if time.monotonic() > give_up:
            run.check("reached", ok=False, detail=f"never reached: {', '.join(missing)}")
            return
        if any("dead_letter" in name for name in missing):
            await send_poison(run, producer)
        shopper, account = await run.load.newcomer()  # what only newcomers reach would take too long otherwise
        await shopper.renew(account)


SCENARIOS: Final = (
    Scenario("failpoints", "failpoints", crash_everywhere, 20, Topology(variables=_SESSION_MS), pause_seconds=0.15),
)
