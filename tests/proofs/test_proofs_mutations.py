"""Each oracle is seen failing: break one mechanism on purpose, and the same exploration finds it."""

import pytest

from interleave.explore import explore, seeds
from interleave.mutations import MUTATIONS, Mutation
from interleave.scenarios import SCENARIOS

MOST_SCHEDULES = 1500


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_mechanism_is_found(mutation: Mutation) -> None:
    with mutation.broken():
        report = explore(SCENARIOS[mutation.scenario], seeds(0, MOST_SCHEDULES), oracles=mutation.oracles)
    assert report.found is not None, f"{report}: the mutation survives"
    print(f"{mutation.name}: {report.plans} schedules")  # noqa: T201 - shown with -rP
