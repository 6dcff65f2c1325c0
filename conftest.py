"""Real servers for every test that asks for one."""

import logging
from collections.abc import Iterator

import pytest

pytest_plugins = ["shop_cluster.pytest_plugin"]


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """A command's `main()` quietens libraries for its own process, and in a test for all that come after it."""
    names = ("aiokafka", "shop_common")
    before = [logging.getLogger(name).level for name in names]
    yield
    for name, level in zip(names, before, strict=True):
        logging.getLogger(name).setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(
        "--faults", choices=("short", "all", "mutations"), default="short", help="how much of the matrix to go through"
    )
    group.addoption("--fault-seed", type=int, default=None, help="one seed instead of three")
