"""A start that cannot succeed says which part and why, as one error."""

import asyncio
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from shop_cluster import programs
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST
from shop_cluster.throw_away import close_state, open_state
from shop_cluster.up import SilentReporter, bring_up


def test_a_part_that_fails_is_the_one_error_of_the_whole_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_redis() -> Path:
        raise ClusterError("no redis-server here", remedy="install redis")

    monkeypatch.setattr(programs, "find_redis", no_redis)
    folder = Path(tempfile.mkdtemp(prefix="shop-life-")) / "cluster"
    state = open_state(folder, os.getpid())
    try:
        with pytest.raises(ClusterError, match="no redis-server here"):
            asyncio.run(bring_up(state, SilentReporter()))  # returns once its threads have ended
    finally:
        close_state(folder)
        shutil.rmtree(folder.parent)


def test_a_taken_port_is_found_before_anything_starts() -> None:
    folder = Path(tempfile.mkdtemp(prefix="shop-life-")) / "cluster"
    state = open_state(folder, os.getpid())
    try:
        with (
            socket.create_server((HOST, state.ports["gateway_metrics"])),
            pytest.raises(ClusterError, match=f"port {state.ports['gateway_metrics']}.*taken by .*pid {os.getpid()}"),
        ):
            asyncio.run(bring_up(state, SilentReporter()))
        assert not (folder / "supervisor" / "pid").exists()
    finally:
        close_state(folder)
        shutil.rmtree(folder.parent)
