"""Bringing a whole cluster up: every part as soon as what it needs is there, each one's readiness checked."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from shop_cluster import jaeger, ports
from shop_cluster.databases import ensure_databases
from shop_cluster.failures import ClusterError
from shop_cluster.processes import end_marked
from shop_cluster.readiness import wait_until_ready
from shop_cluster.running import ensure_server
from shop_cluster.servers import SERVERS
from shop_cluster.services import (
    SERVICES,
    OneShot,
    command,
    environment,
    one_shots,
    service_program,
    write_secret_files,
)
from shop_cluster.state import State
from shop_cluster.supervise import Supervisor

SERVICE_SECONDS = 60
ONE_SHOT_SECONDS = 90

NEEDS: Mapping[str, tuple[str, ...]] = {
    "database": ("postgres",),
    "keys": (),
    "topics": ("kafka",),
    "migrations": ("database",),
    "indexes": ("mongo",),
    "users": ("migrations", "keys", "topics"),
    "orders": ("indexes", "topics"),
    "users-worker": ("migrations", "keys", "topics", "mail"),
    "orders-worker": ("indexes", "topics"),
    "gateway": ("redis", "topics"),
}

PORTS: Mapping[str, tuple[str, ...]] = {
    "kafka": ("kafka", "kafka_controller"),
    "gateway": ("gateway", "gateway_metrics"),
    "jaeger": ("jaeger", "jaeger_grpc", "otlp_grpc", "otlp_http", "jaeger_health"),
}
"""The ports of parts that have more than the one named as they are."""


class Reporter(Protocol):
    """Who is told how the parts come along."""

    def begin(self, part: str) -> None: ...
    def done(self, part: str, seconds: float) -> None: ...


class SilentReporter:
    """For clusters of tests."""

    def begin(self, part: str) -> None: ...
    def done(self, part: str, seconds: float) -> None: ...


async def bring_up(state: State, reporter: Reporter) -> None:
    """Have every part run and answer; raises `ClusterError` for the first that does not."""
    supervisor = Supervisor(state)
    _require_room(state, supervisor)
    write_secret_files(state)
    await asyncio.to_thread(supervisor.start)
    if jaeger.find_jaeger() is None and not jaeger.is_building(state):
        jaeger.start_build(state)
    parts = _parts(state, supervisor)
    finished = {name: asyncio.Event() for name in parts}

    async def run_part(name: str) -> None:
        for need in NEEDS.get(name, ()):
            await finished[need].wait()
        reporter.begin(name)
        started = time.monotonic()
        await parts[name]()
        reporter.done(name, time.monotonic() - started)
        finished[name].set()

    try:
        async with asyncio.TaskGroup() as group:
            for name in parts:
                group.create_task(run_part(name))
    except ExceptionGroup as failed:
        for error in failed.exceptions:
            if isinstance(error, ClusterError):
                raise error from None
        raise


def _require_room(state: State, supervisor: Supervisor) -> None:
    """Free what an ended supervisord left behind, then insist on the ports of what does not run yet."""
    running = {name for name, info in supervisor.processes().items() if info["pid"]}
    if not supervisor.is_running():
        end_marked(state.folder, grace_seconds=5)
    for part in (*SERVERS, *SERVICES, "jaeger"):
        if part not in running:
            ports.require_free(state.ports, PORTS.get(part, (part.replace("-", "_"),)))


def _parts(state: State, supervisor: Supervisor) -> dict[str, Callable[[], Awaitable[None]]]:
    shots = one_shots(state)
    parts: dict[str, Callable[[], Awaitable[None]]] = {"database": lambda: ensure_databases(state)}
    parts |= {name: lambda name=name: ensure_server(state, name) for name in SERVERS}  # type: ignore[misc]
    parts |= {name: lambda shot=shot: run_one_shot(state, shot) for name, shot in shots.items()}  # type: ignore[misc]
    parts |= {name: lambda name=name: ensure_service(state, supervisor, name) for name in SERVICES}  # type: ignore[misc]
    if jaeger.find_jaeger():
        parts["jaeger"] = lambda: ensure_jaeger(state, supervisor)
    return parts


async def ensure_service(state: State, supervisor: Supervisor, name: str) -> None:
    await asyncio.to_thread(supervisor.apply, service_program(state, name))
    await wait_until_ready(state, supervisor, name, seconds=SERVICE_SECONDS)


async def ensure_jaeger(state: State, supervisor: Supervisor) -> None:
    """Start Jaeger once it is built; waits for a build under way."""
    binary = await asyncio.to_thread(jaeger.require_jaeger)
    await asyncio.to_thread(supervisor.apply, jaeger.jaeger_program(state, binary))
    await wait_until_ready(state, supervisor, "jaeger", seconds=SERVICE_SECONDS)


async def run_one_shot(state: State, shot: OneShot) -> None:
    """Run a command to its end; its output goes to its log, and into the error when it fails."""
    variables = {**os.environ, **(environment(state, shot.service) if shot.service else {})}
    process = await asyncio.create_subprocess_exec(
        *command(shot.module, *shot.arguments),
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(ONE_SHOT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise ClusterError(f"{shot.name} took longer than {ONE_SHOT_SECONDS} s", remedy="try again") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    state.log(shot.name).write_text(text)
    if process.returncode:
        raise ClusterError(
            f"{shot.name} ended with {process.returncode}",
            remedy=f"by hand: .venv/bin/python -m {shot.module} {' '.join(shot.arguments)}".rstrip(),
            log_lines=text.splitlines()[-15:],
        )
