"""A cluster's processes: named when in the way, restarted when killed, all gone at the end."""

import asyncio
import os
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from mailbox import Maildir
from pathlib import Path

import pytest

from shop_cluster.failures import ClusterError
from shop_cluster.gateway_client import wait_for
from shop_cluster.ports import require_free
from shop_cluster.processes import find_listener, find_marked
from shop_cluster.pytest_plugin import Server
from shop_cluster.readiness import failure_of, wait_until_ready
from shop_cluster.running import end, ensure_server
from shop_cluster.state import State
from shop_cluster.supervise import Program, Supervisor
from shop_cluster.throw_away import close_state, open_state


@pytest.fixture
def own_state() -> Iterator[State]:
    """A cluster of the test's own, short enough a path for anything."""
    folder = Path(tempfile.mkdtemp(prefix="shop-life-")) / "cluster"
    yield open_state(folder, os.getpid())
    close_state(folder)
    shutil.rmtree(folder.parent)


def pid_of(state: State, name: str) -> int:
    return int(Supervisor(state).processes()[name]["pid"])


async def test_a_taken_port_is_named_with_its_holder_and_the_variable(redis_server: Server) -> None:
    holder = find_listener(redis_server.port)
    assert holder is not None
    assert holder.startswith("redis-server (pid ")
    with pytest.raises(ClusterError) as taken:
        require_free({"redis": redis_server.port}, ["redis"])
    assert holder in str(taken.value)
    assert "SHOP_PORT_REDIS=" in taken.value.remedy


def test_a_killed_server_comes_back(own_state: State) -> None:
    asyncio.run(ensure_server(own_state, "redis"))
    before = pid_of(own_state, "redis")
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: pid_of(own_state, "redis") not in {0, before}, "redis is not restarted")
    wait_for(lambda: asyncio.run(failure_of(own_state, "redis")) is None, "redis does not answer")


def test_starting_again_changes_nothing_that_runs(own_state: State) -> None:
    asyncio.run(ensure_server(own_state, "redis"))
    before = pid_of(own_state, "redis")
    asyncio.run(ensure_server(own_state, "redis"))
    assert pid_of(own_state, "redis") == before


def test_the_end_leaves_no_process_even_without_supervisord(own_state: State) -> None:
    asyncio.run(ensure_server(own_state, "redis"))
    redis = pid_of(own_state, "redis")
    os.kill(int(own_state.place("supervisor", "pid").read_text()), signal.SIGKILL)
    assert redis in {process.pid for process in find_marked(own_state.folder)}
    end(own_state)
    assert find_marked(own_state.folder) == []


def test_a_part_that_keeps_ending_is_named_with_its_last_lines(own_state: State) -> None:
    supervisor = Supervisor(own_state)
    supervisor.start()
    supervisor.apply(Program("mail", ["sh", "-c", "echo the disk is full; exit 3"]))

    with pytest.raises(ClusterError, match="mail keeps ending") as failed:
        asyncio.run(wait_until_ready(own_state, supervisor, "mail", seconds=30))
    assert "the disk is full" in failed.value.log_lines


def test_a_cluster_ends_with_its_owner() -> None:
    folder = Path(tempfile.mkdtemp(prefix="shop-life-")) / "cluster"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        state = open_state(folder, owner.pid)
        asyncio.run(ensure_server(state, "redis"))
        owner.kill()
    wait_for(lambda: not folder.exists() and not find_marked(folder), "the cluster outlives its owner")
    shutil.rmtree(folder.parent)


def test_a_mail_is_caught(mail_server: Server) -> None:
    before = len(Maildir(mail_server.url))
    with smtplib.SMTP(mail_server.host, mail_server.port, timeout=10) as client:
        client.sendmail("shop@example.com", ["ada@example.com"], "Subject: Welcome\n\nHello")
    box = Maildir(mail_server.url)
    assert len(box) == before + 1
    assert any(mail["Subject"] == "Welcome" and mail["X-RcptTo"] == "ada@example.com" for mail in box)
