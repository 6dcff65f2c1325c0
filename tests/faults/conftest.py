"""How much of the fault matrix a run covers: a short selection, unless told otherwise."""

from pathlib import Path

import pytest

from shop_cluster.pytest_plugin import RUN


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The matrix proves the product, the mutants prove the matrix: one run does one of the two."""
    mutations = config.getoption("--faults") == "mutations"
    return True if collection_path.name == ("test_matrix.py" if mutations else "test_mutants.py") else None


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> tuple[int, ...]:
    one: int | None = request.config.getoption("--fault-seed")
    if one is not None:
        return (one,)
    return (1, 2, 3) if request.config.getoption("--faults") == "all" else (1,)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Faults per seed: with three seeds at least twenty a row."""
    return 7 if request.config.getoption("--faults") == "all" else 2


@pytest.fixture
def lab_owner(request: pytest.FixtureRequest) -> tuple[str, int]:
    """The prefix of the folders of this run, and the process without which none of its clusters goes on."""
    prefix, owner = request.config.stash[RUN]
    return prefix, owner
