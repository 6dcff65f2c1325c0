"""How much of the fault matrix a run covers: a short selection, unless told otherwise."""

from pathlib import Path

import pytest

from shop_cluster import jaeger
from shop_cluster.pytest_plugin import RUN


class _ToldAtOnce:
    """What failed is said when it has failed, and not when the rest of the hour is over as well."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            print(f"\n{report.nodeid} ({report.when})\n{report.longreprtext}", flush=True)  # noqa: T201 - for whoever waits


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    if config.getoption("--faults") != "short":
        config.pluginmanager.register(_ToldAtOnce())
    if config.getoption("--faults") == "all":
        jaeger.require_jaeger()  # before anything is timed: it takes both cores for minutes


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The matrix proves the product, the mutants prove the matrix: one run does one of the two."""
    mutations = config.getoption("--faults") == "mutations"
    return True if collection_path.name == ("test_matrix.py" if mutations else "test_mutants.py") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, and is not what everybody waits for in the end."""
    items.sort(key=lambda item: item.path.name != "test_matrix.py")


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
