"""Playing scenarios: many seeds, and a crash before every single step of a program."""

import random
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from interleave.simulation import Plan, Simulation, Violation, virtual_time


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    play: Callable[[Simulation], None]
    programs: tuple[str, ...]
    """Those whose crashes are worth a systematic search."""


@dataclass(slots=True)
class Report:
    scenario: str
    plans: int = 0
    steps: int = 0
    crashes: int = 0
    seconds: float = 0.0
    traces: set[int] = field(default_factory=set)
    """Different runs seen."""
    found: tuple[Plan, Violation] | None = None

    def __str__(self) -> str:
        verdict = "no violation"
        if self.found is not None:
            plan, violation = self.found
            verdict = f"VIOLATED by plan {plan}: {violation.oracle} ({violation.detail})"
        rate = self.plans / self.seconds if self.seconds else 0
        return (
            f"{self.scenario}: {self.plans} schedules ({len(self.traces)} different), {self.steps} steps,"
            f" {self.crashes} crashes, {rate:.0f} schedules/s: {verdict}"
        )


def play(scenario: Scenario, plan: Plan) -> Simulation:
    """One run; the product's own dice are seeded too."""
    simulation = Simulation(plan)
    state = random.getstate()
    random.seed(plan.seed)
    try:
        scenario.play(simulation)
    finally:
        simulation.loop.finish()
        random.setstate(state)
    return simulation


def explore(
    scenario: Scenario, plans: Iterable[Plan], seconds: float = float("inf"), oracles: Container[str] | None = None
) -> Report:
    """Until a violation, of one of these oracles if some are named, the end of the plans, or the end of the time."""
    report = Report(scenario.name)
    began = time.perf_counter()
    with virtual_time():
        for plan in plans:
            simulation = play(scenario, plan)
            report.plans += 1
            report.steps += simulation.loop.steps
            report.crashes += simulation.crashes
            report.traces.add(simulation.loop.trace)
            report.seconds = time.perf_counter() - began
            violation = simulation.violation
            if violation is not None and (oracles is None or violation.oracle in oracles):
                report.found = plan, violation
                break
            if report.seconds > seconds:
                break
    return report


def seeds(first: int, count: int) -> Iterator[Plan]:
    return (Plan(seed) for seed in range(first, first + count))


def crash_everywhere(scenario: Scenario, seed: int) -> Iterator[Plan]:
    """Kill each program once before each step that it takes when nothing is killed."""
    for name in scenario.programs:
        with virtual_time():
            calm_run = play(scenario, Plan(seed, name, 0))
        yield from (Plan(seed, name, step) for step in range(1, calm_run.victims[name].steps + 1))
