"""Every failpoint once: a process ends exactly between two steps, and what it left is healed as its table says."""

import asyncio
import time
from collections.abc import Mapping, Sequence
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
_HEALS_LATE: Final = "mail"
"""What these leave is healed when a claim ends, after a minute: they come first, so that it has ended by the end."""
_TIMES_AT_MOST: Final = 3
"""That a point is passed before the process ends there."""
_SESSION_MS: Final = {f"{service}_KAFKA__SESSION_TIMEOUT_MS": "6000" for service in ("USERS", "ORDERS")}
_PARTS: Final = {module: name for name, module in SERVICES.items()}


async def crash_everywhere(run: Run) -> None:
    """One failpoint per process at a time, all processes at once; who comes back from one has its next one laid."""
    run.expected_letters = None
    by_process: dict[str, list[Failpoint]] = {}
    for point in FAILPOINTS.values():
        by_process.setdefault(point.process, []).append(point)
    for points in by_process.values():
        run.numbers.shuffle(points)
        points.sort(key=lambda point: _HEALS_LATE not in point.name)
    _lay_next(run, by_process)
    await asyncio.gather(*(run.lab.parts[_PARTS[process]].restart() for process in by_process))
    async with open_producer(run.lab) as producer:
        while any(by_process.values()):
            await run.lab.wait_ready()
            armed = [points.pop(0) for points in by_process.values() if points]
            _lay_next(run, by_process)
            async with run.fault(", ".join(point.name for point in armed)):
                await _blow(run, armed, producer)


def _lay_next(run: Run, by_process: Mapping[str, Sequence[Failpoint]]) -> None:
    """Each process has its first point from its next start on, and none where none is left; it waits for its fuse."""
    for process, points in by_process.items():
        laid = {}
        if points:
            point = points[0]
            at = run.numbers.randint(1, 2 if any(part in point.name for part in _RARE) else _TIMES_AT_MOST)
            laid = {"FAILPOINT": point.name, "AT": str(at), "FUSE": str(_fuse(run, point))}
        run.lab.sabotage(_PARTS[process], **laid)


def _fuse(run: Run, point: Failpoint) -> Path:
    return run.lab.state.place("fuses", f"{run.seed}-{point.name}")


async def _blow(run: Run, points: list[Failpoint], producer: object) -> None:
    """Light their fuses, and wait until each of the processes has killed itself."""
    for point in points:
        _fuse(run, point).touch()
    give_up = time.monotonic() + _REACHED_SECONDS
    while missing := [point.name for point in points if _fuse(run, point).exists()]:
        if time.monotonic() > give_up:
            run.check("reached", ok=False, detail=f"never reached: {', '.join(missing)}")
            return
        if any("dead_letter" in name for name in missing):
            await send_poison(run, producer)
        # What only those reach who come or go would take too long otherwise.
        shopper, account = await run.load.newcomer()
        await shopper.renew(account)
        await shopper.place(account)
        await shopper.deactivate(account)


SCENARIOS: Final = (
    Scenario("failpoints", "failpoints", crash_everywhere, 20, Topology(variables=_SESSION_MS), pause_seconds=0.15),
)
