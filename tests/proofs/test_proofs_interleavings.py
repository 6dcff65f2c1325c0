"""The platform's own code under thousands of interleavings, faults and crashes: no oracle is violated.

A failure names its plan; `python -m interleave --plan PLAN SCENARIO` (with tests/proofs on the path) plays it again.
"""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from interleave.explore import crash_everywhere, explore, play, seeds
from interleave.scenarios import SCENARIOS
from interleave.simulation import Plan, virtual_time

SECONDS = 3.0
"""For each exploration by seeds at most, so that a loaded machine explores less instead of taking longer."""
COUNTS = {"relay": 3000, "consumer": 500, "takeover": 150, "orders": 600, "cache": 1200}
FEWEST = 15


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_interleaving_violates_an_oracle(name: str) -> None:
    report = explore(SCENARIOS[name], seeds(0, COUNTS[name]), SECONDS)
    print(report)  # noqa: T201 - shown with -rP
    assert report.found is None, str(report)
    assert report.plans >= FEWEST, str(report)
    assert len(report.traces) > report.plans * 0.9, "the seeds hardly matter"


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.programs])
def test_a_crash_before_any_step_is_healed(name: str) -> None:
    scenario = SCENARIOS[name]
    every_step = explore(scenario, crash_everywhere(scenario, 0))
    others = explore(scenario, (plan for seed in range(1, 4) for plan in crash_everywhere(scenario, seed)), SECONDS / 2)
    for report in (every_step, others):
        print(report)  # noqa: T201 - shown with -rP
        assert report.found is None, str(report)
    assert every_step.crashes >= FEWEST, str(every_step)


def _traces(names: list[str], count: int) -> list[int]:
    with virtual_time():
        return [play(SCENARIOS[name], Plan(seed)).loop.trace for name in names for seed in range(count)]


def test_a_plan_is_one_run_in_any_process() -> None:
    names = list(SCENARIOS)
    program = (
        "from interleave.scenarios import SCENARIOS\nfrom interleave.explore import play\n"
        "from interleave.simulation import Plan, virtual_time\nwith virtual_time():\n"
        f"    print([play(SCENARIOS[name], Plan(seed)).loop.trace for name in {names!r} for seed in range(4)])"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "12345"}
    elsewhere = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    assert _traces(names, 4) == _traces(names, 4)
    assert elsewhere.stdout.strip() == str(_traces(names, 4))


def test_a_plan_is_read_as_it_is_written() -> None:
    for plan in (Plan(7), *islice(crash_everywhere(SCENARIOS["relay"], 1), 2)):
        assert Plan.parse(str(plan)) == plan
