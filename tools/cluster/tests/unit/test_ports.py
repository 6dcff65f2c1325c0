"""Ports: moved by the environment, and a bad wish named."""

from pathlib import Path

import pytest

from shop_cluster.failures import ClusterError
from shop_cluster.ports import DEFAULTS, configured_ports, read_env_file


def test_each_port_can_be_moved_by_its_variable() -> None:
    ports = configured_ports({"SHOP_PORT_USERS_WORKER": "9011"})
    assert ports == {**DEFAULTS, "users_worker": 9011}


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80a"])
def test_what_is_no_port_is_refused_with_its_variable(value: str) -> None:
    with pytest.raises(ClusterError, match="SHOP_PORT_GATEWAY"):
        configured_ports({"SHOP_PORT_GATEWAY": value})


def test_one_port_for_two_parts_is_refused_naming_both() -> None:
    with pytest.raises(ClusterError, match="gateway and users"):
        configured_ports({"SHOP_PORT_GATEWAY": str(DEFAULTS["users"])})


def test_env_file_is_read_without_comments_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# ports\nSHOP_PORT_GATEWAY=8080\n\nMODE = 'local'\nURL=\"http://h/?a=b\"\nnothing\n")
    assert read_env_file(path) == {"SHOP_PORT_GATEWAY": "8080", "MODE": "local", "URL": "http://h/?a=b"}
    assert read_env_file(tmp_path / "none") == {}
