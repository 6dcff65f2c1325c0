"""Each mechanism broken once, on a cluster of its own, under the fault that must show it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shop_cluster.services import SERVICES
from shop_faults.lab import Topology, open_lab
from shop_faults.mutations import MUTATIONS, REPLAY, Mutation
from shop_faults.scenario import Run, Scenario, perform
from shop_faults.scenarios import events, kills
from shop_faults.snapshot import open_postgres

_QUIET_SECONDS: Final = 30.0
_FROZEN_SECONDS: Final = 20.0
_SECONDS: Final = 8.0
_LOCK_SECONDS: Final = 20.0
_LOCK_STATISTICS: Final = """
SELECT 1 FROM user_statistics WHERE user_id IN (
  SELECT id FROM users WHERE is_active ORDER BY created_at DESC LIMIT 6
) FOR UPDATE
"""
"""Of customers who are at work."""
_PARTS: Final = {module: name for name, module in SERVICES.items()}

Inject = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    mutation: Mutation
    failed: tuple[str, ...]
    """The oracles that noticed."""

    @property
    def ok(self) -> bool:
        """One of those that should notice did; where none should, none did."""
        return bool(set(self.failed) & set(self.mutation.caught_by)) if self.mutation.caught_by else not self.failed


async def nothing(run: Run) -> None:
    async with run.fault("nothing"):
        await asyncio.sleep(_SECONDS)


async def rows_locked(run: Run) -> None:
    """Some customers' statistics wait for a lock while others go on; then the worker is killed."""
    await run.lab.wait_ready()
    await asyncio.sleep(_SECONDS / 2)
    async with run.fault("rows locked"), open_postgres(run.lab.state) as connection, connection.transaction():
        await connection.execute(_LOCK_STATISTICS)
        await asyncio.sleep(_SECONDS / 2)
        await asyncio.gather(*(run.lab.parts[name].kill() for name in events.WORKERS))


async def rows_locked_and_members_join(run: Run) -> None:
    """Partitions go to others while some of their records wait for a lock; newcomers must not notice."""
    others = [run.lab.parts[f"{name}-2"] for name in events.WORKERS]
    for other in others:
        other.keep_alive = False
        await other.stop()
    await asyncio.sleep(_SECONDS / 2)
    async with run.fault("rows locked"), open_postgres(run.lab.state) as connection, connection.transaction():
        await connection.execute(_LOCK_STATISTICS)
        await asyncio.sleep(_SECONDS / 4)
        for other in others:
            await other.start()
            other.keep_alive = True
        await asyncio.sleep(_SECONDS)  # until they have joined, and partitions are given up
        errands = [asyncio.create_task(run.load.errand()) for _ in range(5)]  # some share a partition with the locked
        done, late = await asyncio.wait(errands, timeout=_LOCK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        run.check("O10", ok=bool(done), detail=f"no newcomer's order was counted within {_LOCK_SECONDS:g} s")
    for errand in late:
        errand.cancel()
    await asyncio.gather(*errands, return_exceptions=True)


async def databases_killed(run: Run) -> None:
    for name in ("postgres", "mongo"):
        await kills.kill_server(name)(run)


async def poisoned(run: Run) -> None:
    async with events.open_producer(run.lab) as producer, run.fault("poison"):
        await events.send_poison(run, producer)


_FAULTS: Final[Mapping[str, Inject]] = {
    "none": nothing,
    "failpoint": nothing,
    "duplicates": events.read_everything_again,
    "out of order": events.shuffle,
    "rows locked and worker killed": rows_locked,
    "rows locked and members join": rows_locked_and_members_join,
    "broker killed": kills.kill_server("kafka"),
    "broker frozen": kills.freeze("kafka", _FROZEN_SECONDS),
    "databases killed": databases_killed,
    "poison": poisoned,
    "poison and replay": events.give_up_and_replay,
}


async def try_mutation(name: str, folder: Path, owner_pid: int, reports: Path) -> Outcome:
    mutation = MUTATIONS[name]
    is_locked = mutation.fault.startswith("rows locked")
    topology = Topology(
        twice=frozenset(events.WORKERS) if mutation.fault == "rows locked and members join" else frozenset(),
        variables={"USERS_POSTGRES__COMMAND_SECONDS": "60"} if is_locked else {},  # longer than the lock
    )
    scenario = Scenario(
        f"mutation-{name}",
        "mutation",
        _breaking(mutation),
        recovery_seconds=20,
        topology=topology,
        customers=20 if is_locked else 8,  # so that some share a partition
        pause_seconds=0.15,
    )
    async with open_lab(folder, owner_pid, scenario.topology) as lab:
        result = await perform(scenario, lab, reports, seed=1, rounds=1, quiet_seconds=_QUIET_SECONDS)
    failed = sorted({failure.oracle.replace(",", " ").split()[0] for failure in result.failures})
    return Outcome(mutation, tuple(failed))


def _breaking(mutation: Mutation) -> Inject:
    async def inject(run: Run) -> None:
        points = dict(zip(mutation.processes, mutation.failpoints, strict=False))
        for module in mutation.processes:
            if module == REPLAY:
                run.replay_mutation = mutation.name
                continue
            for name in (_PARTS[module], f"{_PARTS[module]}-2"):
                if name not in run.lab.parts:
                    continue
                armed = {}
                if module in points:
                    fuse = run.lab.state.place("fuses", name)
                    fuse.touch()
                    armed = {"FAILPOINT": points[module], "AT": "3", "FUSE": str(fuse)}
                run.lab.sabotage(name, MUTATION=mutation.name, **armed)
                await run.lab.parts[name].restart()
        await _FAULTS[mutation.fault](run)

    return inject


def table(outcomes: list[Outcome]) -> str:
    """In Markdown: what was broken, and who noticed."""
    lines = ["| mechanism | broken how | under | noticed by |", "|---|---|---|---|"]
    for outcome in outcomes:
        mutation = outcome.mutation
        noticed = ", ".join(outcome.failed) or "nobody"
        verdict = noticed if outcome.ok else f"**{noticed}**, not {', '.join(mutation.caught_by) or 'nobody'}"
        lines.append(f"| {mutation.name} | {mutation.breaks} | {mutation.fault} | {verdict} |")
    return "\n".join(lines) + "\n"
