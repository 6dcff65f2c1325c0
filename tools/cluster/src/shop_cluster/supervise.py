"""Supervision: one supervisord per cluster starts the programs, restarts the killed, keeps their logs."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from supervisor.xmlrpc import SupervisorTransport

from shop_cluster.failures import ClusterError
from shop_cluster.processes import marked_environment
from shop_cluster.state import State, write_private

STOPPED_STATES = {"STOPPED", "EXITED", "FATAL", "UNKNOWN"}
NO_WAIT = False


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 30


class Supervisor:
    """The supervisord of one cluster; everything about it goes through its socket."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._socket = state.hidden / "supervisor.sock"
        self._programs = state.place("supervisor", "programs", "any").parent
        self._lock = FileLock(state.place("supervisor", "lock"))

    def start(self) -> None:
        """Start supervisord unless it answers already."""
        with self._lock:
            if self.is_running():
                return
            for left in self._programs.glob("*.ini"):
                left.unlink()
            config = self._state.place("supervisor", "supervisord.conf")
            config.write_text(self._render_config())
            subprocess.run(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
                env=marked_environment(self._state.folder),
                stdout=subprocess.DEVNULL,
                check=True,
            )
            deadline = time.monotonic() + 15
            while not self.is_running():
                if time.monotonic() > deadline:
                    raise ClusterError("supervisord does not answer", remedy=f"see {self._state.log('supervisord')}")
                time.sleep(0.05)

    def is_running(self) -> bool:
        try:
            with self._connected() as rpc:
                return bool(rpc.getState()["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def apply(self, program: Program) -> None:
        """Have the program run as described: started if new, restarted if changed, left alone otherwise."""
        with self._lock:
            write_private(self._programs / f"{program.name}.ini", self._render_program(program))
            with self._connected() as rpc:
                [[added, changed, _]] = rpc.reloadConfig()
                if program.name in changed:
                    rpc.stopProcessGroup(program.name)
                    rpc.removeProcessGroup(program.name)
                if program.name in (*added, *changed):
                    rpc.addProcessGroup(program.name)
                elif self._info(rpc, program.name)["statename"] in STOPPED_STATES:
                    rpc.startProcess(program.name, NO_WAIT)

    def processes(self) -> dict[str, dict[str, Any]]:
        """supervisord's own account of each program, by name; empty when it does not run."""
        try:
            with self._connected() as rpc:
                return {info["name"]: info for info in rpc.getAllProcessInfo()}
        except (OSError, xmlrpc.client.Error):
            return {}

    def restart(self, name: str) -> None:
        with self._connected() as rpc:
            rpc.stopProcess(name)
            rpc.startProcess(name, NO_WAIT)

    def stop(self, names: Iterable[str], *, timeout: float = 40) -> None:
        """Stop the named programs all at once and wait for their ends."""
        known = self.processes()
        with self._connected() as rpc:
            for name in names:
                if name in known and known[name]["statename"] not in STOPPED_STATES:
                    with contextlib.suppress(xmlrpc.client.Fault):  # it ended meanwhile
                        rpc.stopProcess(name, NO_WAIT)
        deadline = time.monotonic() + timeout
        while any(info["statename"] == "STOPPING" for info in self.processes().values()):
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)

    def shutdown(self) -> None:
        with contextlib.suppress(OSError, xmlrpc.client.Error), self._connected() as rpc:
            rpc.shutdown()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://supervisor", transport=transport)
        try:
            yield proxy.supervisor
        finally:
            transport.close()

    @staticmethod
    def _info(rpc: Any, name: str) -> dict[str, Any]:
        info: dict[str, Any] = rpc.getProcessInfo(name)
        return info

    def _render_config(self) -> str:
        return f"""
[supervisord]
logfile = {_escape(self._state.log("supervisord"))}
logfile_maxbytes = 5MB
logfile_backups = 1
pidfile = {_escape(self._state.place("supervisor", "pid"))}
{"user = root" if os.geteuid() == 0 else ""}
[unix_http_server]
file = {_escape(self._socket)}
chmod = 0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files = {_escape(self._programs)}/*.ini
"""

    def _render_program(self, program: Program) -> str:
        quoted = {name: f"'{value}'" if '"' in value else f'"{value}"' for name, value in program.environment.items()}
        environment = ",".join(f"{name}={_escape(value)}" for name, value in quoted.items())
        return f"""
[program:{program.name}]
command = {_escape(shlex.join(program.command))}
environment = {environment}
{f"user = {program.user}" if program.user else ""}
directory = /
autorestart = true
startsecs = 1
startretries = 10
stopsignal = {program.stop_signal}
stopwaitsecs = {program.stop_seconds}
killasgroup = true
redirect_stderr = true
stdout_logfile = {_escape(self._state.log(program.name))}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 1
"""


def _escape(text: str | Path) -> str:
    """supervisord's configuration expands `%`."""
    return str(text).replace("%", "%%")
