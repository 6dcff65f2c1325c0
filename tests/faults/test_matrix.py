"""The fault matrix on real servers: nothing lost, nothing doubled, recovered in time."""

import gc
from pathlib import Path

import pytest

from shop_faults.lab import open_lab
from shop_faults.matrix import SCENARIOS, SHORT
from shop_faults.report import create_report, write_report
from shop_faults.scenario import perform

REPORTS = Path(__file__).parents[2] / ".cluster" / "faults"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    everything = metafunc.config.getoption("--faults") == "all"
    metafunc.parametrize("name", [*SCENARIOS] if everything else SHORT)


@pytest.mark.timeout(1500)
# httpx leaves sockets to the garbage collector where a connection is made and its caller has gone meanwhile.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_nothing_is_lost_or_doubled(
    name: str, seeds: tuple[int, ...], rounds: int, lab_owner: tuple[str, int]
) -> None:
    scenario = SCENARIOS[name]
    prefix, owner = lab_owner
    failures = []
    async with open_lab(Path(f"{prefix}-{name}"), owner, scenario.topology) as lab:
        for seed in seeds:
            result = await perform(scenario, lab, REPORTS, seed=seed, rounds=rounds)
            write_report(create_report(result), REPORTS)
            failures += [f"seed {seed}, {failure.oracle}: {failure.detail}" for failure in result.failures]
    gc.collect()  # here, where that is allowed, and not in another test
    assert not failures, "\n".join(failures)
