"""Every mechanism broken on purpose: an oracle that was never seen failing proves nothing."""

from pathlib import Path

import pytest

from shop_faults.mutants import table, try_mutation
from shop_faults.mutations import MUTATIONS

REPORTS = Path(__file__).parents[2] / ".cluster" / "faults"


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [*MUTATIONS])
async def test_a_broken_mechanism_is_noticed(name: str, lab_owner: tuple[str, int]) -> None:
    prefix, owner = lab_owner
    outcome = await try_mutation(name, Path(f"{prefix}-{name}"), owner, REPORTS)
    (REPORTS / f"mutation-{name}.row").write_text(table([outcome]).splitlines()[-1] + "\n")
    assert outcome.ok, f"{outcome.failed}, not {outcome.mutation.caught_by}"
