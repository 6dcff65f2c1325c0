"""Real servers for every test that asks for one."""

import pytest

pytest_plugins = ["shop_cluster.pytest_plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(
        "--faults", choices=("short", "all", "mutations"), default="short", help="how much of the matrix to go through"
    )
    group.addoption("--fault-seed", type=int, default=None, help="one seed instead of three")
