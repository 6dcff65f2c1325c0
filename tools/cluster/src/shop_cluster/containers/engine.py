"""A Docker engine for the check: the one that answers, else one that has everything of its own and leaves nothing."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shop_cluster.failures import ClusterError
from shop_cluster.processes import end
from shop_cluster.programs import run

START_SECONDS = 60
STOP_SECONDS = 60
PROGRAMS = ("docker", "dockerd", "containerd", "runc", "setpriv")


@dataclass(frozen=True, slots=True)
class Engine:
    """`host` is what DOCKER_HOST says to reach it, empty for the machine's own; `own` for one that was started here."""

    host: str
    own: bool

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}

    def docker(self, *arguments: str) -> str:
        """What a docker command prints; a failure is a `ClusterError` with the last lines."""
        command = ["docker", *arguments]
        return run(command, f"docker {arguments[0]}", "see the lines above", environment=self.environment).strip()

    @property
    def version(self) -> str:
        """Empty where no engine answers."""
        with contextlib.suppress(ClusterError):
            return self.docker("version", "--format", "{{.Server.Version}}")
        return ""

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", name))
        return dict(found)


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """The engine that answers; where none does, root's own as long as this lasts."""
    engine = Engine(os.environ.get("DOCKER_HOST", ""), own=False)
    if shutil.which("docker") and engine.version:
        yield engine
        return
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        why = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not here" if missing else "this is not root"
        raise ClusterError(
            f"no Docker engine answers, and none can be started for the check: {why}",
            remedy="start Docker and try again, or try as root of a Debian with the packages docker.io and debootstrap",
        )
    with _own_engine() as engine:
        yield engine


@contextlib.contextmanager
def _own_engine() -> Iterator[Engine]:
    """Its files in a folder of its own, no bridge and no firewall rule: containers use the machine's own network."""
    folder = Path(tempfile.mkdtemp(prefix="shop-docker-"))
    config, log, socket = folder / "config.json", folder / "log", f"unix://{folder}/docker.sock"
    config.write_text("{}")
    options = {
        "config-file": config,
        "data-root": folder / "data",
        "exec-root": folder / "exec",
        "pidfile": folder / "pid",
        "host": socket,
        "bridge": "none",
        "iptables": "false",
        "ip-forward": "false",
    }
    # It ends with its parent, also when that is killed.
    command = ["setpriv", "--pdeathsig", "TERM", "dockerd", *(f"--{name}={value}" for name, value in options.items())]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        engine = Engine(socket, own=True)
        _wait_for(engine, process, log)
        yield engine
    finally:
        end(process, grace_seconds=STOP_SECONDS)
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not engine.version:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ClusterError(
                f"dockerd does not answer (exit code {process.poll()})",
                remedy="see its last lines above",
                log_lines=log.read_text(errors="replace").splitlines()[-15:],
            )
        time.sleep(0.1)


def _unmount(folder: Path) -> None:
    """Take away what dockerd left mounted below the folder, such as the namespace of the machine's network."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([point for point in points if Path(point).is_relative_to(folder)]):
        subprocess.run(["umount", "--lazy", point], check=False)
