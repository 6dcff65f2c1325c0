"""`make docker-check`: build the images and run the services from them as Compose does, on servers of this machine.

What it starts it ends, whatever happens; only images stay, where an engine was there before.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from shop_cluster import go
from shop_cluster.containers import base, composing, inside
from shop_cluster.containers.composing import Compose
from shop_cluster.containers.engine import Engine, open_engine
from shop_cluster.databases import ensure_databases
from shop_cluster.docker import FOR_THIS_HOST, compose_environment
from shop_cluster.failures import ClusterError
from shop_cluster.gateway_client import Gateway
from shop_cluster.ports import HOST
from shop_cluster.running import ensure_server
from shop_cluster.screens import console, failing_clearly
from shop_cluster.seed import items_of
from shop_cluster.servers import SERVERS
from shop_cluster.services import SERVICES
from shop_cluster.state import State
from shop_cluster.throw_away import close_state, open_state

IMAGES = ("users", "orders", "gateway")
ONE_SHOTS = ("keys", "topics", "migrations", "indexes")
ORDERS = 5
UP_SECONDS = 180
LOAD_SECONDS = 5
EXPECTED = {
    "uids": [10001],
    "gids": [10001],
    "capabilities": ["0000000000000000"],
    "no_new_privileges": "1",
    "seccomp": "2",
    "writable": [inside.TMP],
    "tools": [],
}
"""What `inside` must find in each of our containers."""


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """A line that says what is done and, at its end, how long it took."""
    started = time.monotonic()
    print(f"{what} ... ", end="", flush=True)
    yield
    print(f"{time.monotonic() - started:.1f} s", flush=True)


def check() -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="shop-docker-check-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        state = open_state(folder / "cluster", os.getpid())
        stack.callback(close_state, folder / "cluster")
        with step("Compose, from its Go module"):
            binary = go.build(composing.PROGRAM)
        compose = Compose(binary, f"shop-check-{os.getpid()}", compose_environment(state))
        with step("its files, in every combination and broken ones"):
            taken = composing.check_files(compose, folder)
        print(f"  {taken} as they should be")
        with step("a Docker engine"):
            engine = stack.enter_context(open_engine())
        print(f"  Docker {engine.version}, {'started for this check' if engine.own else 'which was there'}")
        environment = {**compose.environment, **engine.environment}
        compose = replace(compose, environment=environment, overrides=(FOR_THIS_HOST,))
        stack.callback(_take_down, compose)
        _build(engine, compose)
        with step("the servers, as plain processes"):
            asyncio.run(_start_servers(state))
        with step("the services, from their images"):
            moments = asyncio.run(_start_services(compose, state))
        with step("what they may do"):
            for name in SERVICES:
                _require_closed(engine, compose, name)
        with step(f"a registration, a login, {ORDERS} orders"):
            _order(state)
        with step("the profiles load and tools"):
            load = compose.run("run", "--rm", "--no-TTY", "--no-deps", "--env", f"LOAD_SECONDS={LOAD_SECONDS}", "load")
            compose.run("run", "--rm", "--no-TTY", "--no-deps", "replay", "users-worker", "--dry-run")
        print(f"  {load.strip().splitlines()[-1]}")
        with step("what they take"):
            table = _table(engine, compose, moments)
        with step("a stop"):
            _stop(engine, compose)
        with step("the end of all that was started"):
            stack.close()
        console.print(table)


def _build(engine: Engine, compose: Compose) -> None:
    tag = base.wanted_tag(base.DOCKERFILE.read_text())
    if engine.own:
        with step("the images' base, from Debian's packages and a Python of this machine"):
            tag, archive = base.make_base()
            engine.docker("import", *base.import_options(), str(archive), f"python:{tag}")
    with step("the images"):
        compose.run("build", "--build-arg", f"PYTHON={tag}", *IMAGES)


async def _start_servers(state: State) -> None:
    await asyncio.gather(*(ensure_server(state, name) for name in SERVERS))
    await ensure_databases(state)


async def _start_services(compose: Compose, state: State) -> dict[str, float]:
    """Return once each is healthy: when each first said that it is ready."""
    async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
        first = {name: asyncio.create_task(_first_ready(http, state, name)) for name in SERVICES}
        up = ("up", "--detach", "--wait", "--wait-timeout", str(UP_SECONDS))
        try:
            await asyncio.to_thread(compose.run, *up, *SERVICES)
            return {name: await task for name, task in first.items()}
        except ClusterError as failed:
            lines = compose.run("logs", "--no-color", "--tail", "8").splitlines()
            raise ClusterError(str(failed), remedy=failed.remedy, log_lines=[*failed.log_lines, *lines]) from None
        finally:
            for task in first.values():
                task.cancel()


async def _first_ready(http: httpx.AsyncClient, state: State, name: str) -> float:
    url = f"http://{HOST}:{state.ports[name.replace('-', '_')]}/readyz"
    while True:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get(url)).is_success:
                return time.time()
        await asyncio.sleep(0.05)


def _require_closed(engine: Engine, compose: Compose, name: str) -> None:
    script = Path(inside.__file__).read_text()
    found = json.loads(engine.docker("exec", container(compose, name), "python", "-I", "-c", script))
    if wrong := complaints(found, engine.inspect(container(compose, name))):
        raise ClusterError(f"{name} is not closed: {'; '.join(wrong)}", remedy="docker-compose.yml, the Dockerfile")


def complaints(found: Mapping[str, object], inspected: Mapping[str, Any]) -> list[str]:
    """Where a container is not what it must be: by what is seen inside, and by what the engine says of it."""
    state, host = inspected["State"], inspected["HostConfig"]
    told = {
        "health": state["Health"]["Status"],
        "read-only root": host["ReadonlyRootfs"],
        "memory limit": bool(host["Memory"]),
        "restarts": inspected["RestartCount"],
    }
    wanted = {"health": "healthy", "read-only root": True, "memory limit": True, "restarts": 0}
    seen, right = {**found, **told}, {**EXPECTED, **wanted}
    return [f"{what}: {seen.get(what)}, not {right[what]}" for what in right if seen.get(what) != right[what]]


def _order(state: State) -> None:
    with Gateway(state) as gateway:
        password = state.secret("customer")
        gateway.register("ada@example.com", "ada", password)
        gateway.log_in("ada@example.com", password)
        orders = [gateway.place_order(items_of([("tea", number, 450)])) for number in range(1, ORDERS + 1)]
        for order in orders:
            gateway.wait_for_order(order["id"], "confirmed")


def container(compose: Compose, name: str) -> str:
    return f"{compose.project}-{name}-1"


def _table(engine: Engine, compose: Compose, moments: Mapping[str, float]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for header in ("container", "image", "MB", "ready or done after", "memory"):
        table.add_column(header)
    running = [container(compose, name) for name in SERVICES]
    lines = engine.docker("stats", "--no-stream", "--format", "{{.Name}}\t{{.MemUsage}}", *running).splitlines()
    memory = dict(line.split("\t") for line in lines)
    for name in (*ONE_SHOTS, *SERVICES):
        known_as = container(compose, name)
        inspected = engine.inspect(known_as)
        image = str(inspected["Config"]["Image"])
        started, finished = (_seconds(inspected["State"][moment]) for moment in ("StartedAt", "FinishedAt"))
        after = moments.get(name, finished) - started
        size = int(engine.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        table.add_row(name, image, f"{size:.0f}", f"{after:.1f} s", memory.get(known_as, ""))
    return table


def _seconds(moment: object) -> float:
    """An engine's time, of nanoseconds, since 1970; that of what has not ended is in the year 1."""
    return datetime.fromisoformat(str(moment)).timestamp() if not str(moment).startswith("0001") else 0.0


def _stop(engine: Engine, compose: Compose) -> None:
    """Every process ends by itself and well when it is asked to."""
    compose.run("stop")
    ends = {name: engine.inspect(container(compose, name))["State"]["ExitCode"] for name in SERVICES}
    if bad := [f"{name} with {code}" for name, code in ends.items() if code != 0]:
        raise ClusterError(f"asked to stop, {', '.join(bad)} ended", remedy="0 is a graceful end, 137 a killed one")


def _take_down(compose: Compose) -> None:
    with contextlib.suppress(ClusterError):  # what went wrong before is what is told
        compose.run("down", "--volumes", "--remove-orphans", "--timeout", "5")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is ended
    logging.disable()  # clients log each refused attempt while a server starts
    started = time.monotonic()
    with failing_clearly():
        check()
    console.print(f"\nthe images are built and the services run from them; {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
