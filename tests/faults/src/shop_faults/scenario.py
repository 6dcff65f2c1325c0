"""A scenario: a cluster under load, faults at random instants, and what the oracles say when all is quiet again."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shop_common.kafka.topics import GROUPS
from shop_faults.client import Sample
from shop_faults.lab import Lab, Topology
from shop_faults.ledger import Ledger, open_ledger
from shop_faults.load import Load, open_load
from shop_faults.oracles import Evidence, Finding, Totals, committed_but_not_done, count, finding, judge
from shop_faults.shopper import JOIN_SECONDS
from shop_faults.snapshot import Snapshot, lag, read_databases, read_offsets, read_snapshot

QUIET_SECONDS: Final = 120.0
"""Longer than the claim of a welcome mail whose sender died, which is a minute."""
_WARM_SECONDS: Final = JOIN_SECONDS + 1
_PATIENCE_SECONDS: Final = 15.0
"""Beyond the bound of a recovery, to see by how much it is missed."""
_POLL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Fault:
    """Seconds since the scenario's start; `recovery` is from the fault's end until a customer's errand was done."""

    kind: str
    begin: float
    end: float
    recovery: float


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    row: str
    """Of the matrix."""
    inject: Callable[["Run"], Awaitable[None]]
    recovery_seconds: float
    """The bound of O9."""
    topology: Topology = field(default_factory=Topology)
    customers: int = 8
    pause_seconds: float = 0.4
    doubles: bool = True
    """Whether records may be in the log twice."""


@dataclass(slots=True)
class Run:
    """One scenario with one seed on a cluster that is up."""

    scenario: Scenario
    seed: int
    lab: Lab
    load: Load
    ledger: Ledger
    numbers: random.Random
    rounds: int
    """How many faults to inject."""
    started: float = field(default_factory=time.monotonic)
    verify: Callable[["Run", Snapshot], None] = lambda *_: None
    """What the scenario itself has to say of how everything ended."""
    faults: list[Fault] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    expected_letters: int | None = 0
    """Dead letters that the scenario itself provoked; None where a crash may double them."""
    replay_mutation: str = ""
    """How the command that replays dead letters is broken, if at all."""

    @asynccontextmanager
    async def fault(self, kind: str) -> AsyncIterator[None]:
        """A fault lasts as long as the block; then it is measured how long a new customer's errand takes."""
        begin = time.monotonic()
        yield
        end = time.monotonic()
        patience = self.scenario.recovery_seconds + _PATIENCE_SECONDS
        try:
            async with asyncio.timeout(patience):
                await self.load.errand()
        except TimeoutError:
            self.check("O9", ok=False, detail=f"no errand was done within {patience:g} s of {kind}")
        self.faults.append(Fault(kind, begin - self.started, end - self.started, time.monotonic() - end))

    async def pause(self, shortest: float, longest: float) -> None:
        """A random time for the load to be in the middle of something."""
        await asyncio.sleep(self.numbers.uniform(shortest, longest))

    def check(self, name: str, *, ok: bool, detail: str) -> None:
        """Something that only this scenario promises."""
        self.findings.append(Finding(name, ok, detail))

    def samples_of(self, *kinds: str, since: float) -> list[Sample]:
        return [sample for sample in self.load.samples if sample.kind in kinds and sample.at >= since]

    async def check_commits(self) -> None:
        """O8 at this moment, in the middle of it all."""
        snapshot = (await read_snapshot(self.lab.state)).without(self.lab.forged)
        found = finding("O8 at a random moment", committed_but_not_done(snapshot))
        if not found.ok:
            self.findings.append(found)


@dataclass(frozen=True, slots=True)
class Result:
    run: Run
    totals: Totals
    """Of this run alone."""
    quiet_seconds: float
    """From the load's end until every outbox was empty and every group had read everything."""
    findings: list[Finding]

    @property
    def failures(self) -> list[Finding]:
        return [each for each in self.findings if not each.ok]


async def perform(
    scenario: Scenario, lab: Lab, folder: Path, *, seed: int, rounds: int, quiet_seconds: float = QUIET_SECONDS
) -> Result:
    """Warm up, inject, settle, wait until all is quiet, judge."""
    numbers = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
    with open_ledger(folder / f"{scenario.name}-{seed}.ledger") as ledger:
        async with open_load(
            lab.gateway_urls, ledger, seed, customers=scenario.customers, pause_seconds=scenario.pause_seconds
        ) as load:
            run = Run(scenario, seed, lab, load, ledger, numbers, rounds)
            load.start()
            await asyncio.sleep(_WARM_SECONDS)
            await scenario.inject(run)
            await load.stop()
            stopped = time.monotonic()
            try:
                await lab.wait_ready()
                await load.settle()
                await wait_until_quiet(lab, quiet_seconds)
            except TimeoutError as error:
                run.check("O9 in the end", ok=False, detail=str(error))
            took = time.monotonic() - stopped
        snapshot = await read_snapshot(lab.state)
        run.verify(run, snapshot)
        before, lab.totals = lab.totals, count(snapshot)
        totals = lab.totals.since(before)
        judged = judge(Evidence(ledger, snapshot.without(lab.forged)))
        findings = [*judged, *run.findings, *_bounds(run, snapshot, totals)]
    return Result(run, totals, took, findings)


def _bounds(run: Run, snapshot: Snapshot, totals: Totals) -> list[Finding]:
    letters, doubles = totals.letters, totals.duplicates
    slow = [
        f"{fault.kind} at {fault.begin:.1f} s took {fault.recovery:.1f} s"
        for fault in run.faults
        if fault.recovery > run.scenario.recovery_seconds
    ]
    twice = {event: count for event, count in snapshot.databases.mails.items() if count > 1}
    # A mail server knows no transactions: what was sent and not noted when something died is sent again.
    unharmed = not run.lab.proxies and not any(code for part in run.lab.parts.values() for code in part.exits)
    counted = run.expected_letters is None or letters == run.expected_letters
    wrong = [each for shopper in run.load.shoppers for each in shopper.wrong_reads]
    return [
        Finding("O6", run.scenario.doubles or not doubles, f"{doubles} records are in the log twice"),
        finding("O9", slow),
        finding("reads", wrong),
        Finding("O5, mails", not (unharmed and twice), f"{len(twice)} welcome mails were sent twice"),
        Finding("dead letters", counted, f"{letters}, expected {run.expected_letters}"),
    ]


async def wait_until_quiet(lab: Lab, seconds: float = QUIET_SECONDS) -> None:
    """Outboxes empty and no lag, twice in a row; raises with what is left when it takes too long."""
    left = "nothing was seen"
    quiet = 0
    give_up = time.monotonic() + seconds
    while quiet < 2:  # so that nothing was between an outbox and its topic
        if time.monotonic() > give_up:
            raise TimeoutError(f"not quiet after {seconds:g} s: {left}")
        outbox = (await read_databases(lab.state)).outbox
        committed, ends = await read_offsets(lab.state)
        lags = {group: lag(group, committed, ends) for group in GROUPS}
        left = f"{outbox} in the outboxes, lag {lags}"
        quiet = quiet + 1 if not outbox and not any(lags.values()) else 0
        await asyncio.sleep(_POLL_SECONDS)
