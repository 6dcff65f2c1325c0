"""Processes of a cluster: marking them, finding those left behind, ending them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

# Every process of a cluster inherits this variable with the cluster's folder in it; that is how leftovers are known.
MARKER = "SHOP_CLUSTER_FOLDER"


def marked_environment(folder: Path) -> dict[str, str]:
    return {**os.environ, MARKER: str(folder)}


def unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """For a child that coverage is not to follow into: it slows down what it measures."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}


def spawn_detached(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
    """Start a process that outlives this one, in a session of its own; its output goes to `log`."""
    with log.open("a") as output:
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)",
                *command,
            ],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=True,
        )


def wait_for_exit(pid: int) -> None:
    """Return when the process is gone; it need not be a child of this one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()


def end(process: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """Terminate a child, and kill it after the grace."""
    process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_listener(port: int) -> str | None:
    """`name (pid N)` of the process listening on a port, where this user may see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})" if connection.pid else None
    return None


def find_marked(folder: Path) -> list[psutil.Process]:
    """Living processes that carry the mark of the cluster in `folder`, without this one and its parents."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in own and process.environ().get(MARKER) == str(folder):
                found.append(process)
    return found


def end_marked(folder: Path, *, grace_seconds: float) -> int:
    """Terminate every marked process, kill what is left after the grace; returns how many there were."""
    found = find_marked(folder)
    if grace_seconds:
        _signal(found, signal.SIGTERM)
        _wait(found, grace_seconds)
    _signal(found, signal.SIGKILL)
    _wait(found, 10)
    return len(found)


def _signal(found: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _wait(found: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(_is_alive, found)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _is_alive(process: psutil.Process) -> bool:
    """A zombie has ended; whose child it was may take its time to notice."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
