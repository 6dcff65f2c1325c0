"""What docker-check says, where it takes no engine to know."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shop_cluster.containers import base, inside
from shop_cluster.containers.check import EXPECTED, complaints
from shop_cluster.containers.engine import open_engine
from shop_cluster.failures import ClusterError

CLOSED = {
    "State": {"Health": {"Status": "healthy"}},
    "HostConfig": {"ReadonlyRootfs": True, "Memory": 512 * 2**20},
    "RestartCount": 0,
}


def test_a_closed_container_is_not_complained_of() -> None:
    assert complaints(EXPECTED, CLOSED) == []


@pytest.mark.parametrize(
    ("fact", "found"),
    [
        ("uids", [0]),
        ("gids", [0, 10001]),
        ("capabilities", ["0000000000000000", "00000000a80425fb"]),
        ("no_new_privileges", "0"),
        ("seccomp", "0"),
        ("writable", ["/app", inside.TMP]),
        ("tools", ["pip"]),
    ],
)
def test_what_is_seen_inside_is_held_against_it(fact: str, found: object) -> None:
    (complaint,) = complaints({**EXPECTED, fact: found}, CLOSED)
    assert complaint.startswith(f"{fact}: {found}, not ")


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"State": {"Health": {"Status": "unhealthy"}}}, "health"),
        ({"HostConfig": {"ReadonlyRootfs": False, "Memory": 1}}, "read-only root"),
        ({"HostConfig": {"ReadonlyRootfs": True, "Memory": 0}}, "memory limit"),
        ({"RestartCount": 3}, "restarts"),
    ],
)
def test_what_the_engine_says_is_held_against_it(part: dict[str, Any], what: str) -> None:
    (complaint,) = complaints(EXPECTED, {**CLOSED, **part})
    assert complaint.startswith(f"{what}: ")


def test_the_script_for_containers_runs_by_itself_and_tells_what_is_expected() -> None:
    script = Path(inside.__file__).read_text()
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == EXPECTED.keys()
    assert inside.TMP in found["writable"]


def test_the_base_is_the_one_the_dockerfile_names() -> None:
    assert base.wanted_tag(base.DOCKERFILE.read_text()).startswith("3.")
    assert base.wanted_tag("# x\nARG PYTHON=3.14-slim-trixie\nFROM python:${PYTHON}\n") == "3.14-slim-trixie"


def test_the_systems_own_python_cannot_be_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system = tmp_path / "python2.0"
    system.write_text("#!/bin/sh\nprintf '/usr\\n2.0\\n2.0.1\\n'\n")
    system.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(sys, "executable", str(system))
    with pytest.raises(ClusterError, match=r"no Python 2\.0 here") as missing:
        base.find_python("2.0")
    assert "pyenv install 2.0" in missing.value.remedy


def test_a_python_in_a_folder_of_its_own_can_be_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "versions" / "2.0.1" / "bin" / "python3"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\nprintf '/home/ada/2.0.1\\n2.0\\n2.0.1\\n'\n")
    own.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert base.find_python("2.0") == base.Python(Path("/home/ada/2.0.1"), "2.0", "2.0.1")


def test_where_no_engine_can_be_had_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"no Docker engine answers.*dockerd.* not here") as missing, open_engine():
        pass
    assert "docker.io" in missing.value.remedy
    assert "\n" not in f"{missing.value}{missing.value.remedy}"
