"""A whole cluster for one scenario: real servers, our services, a proxy wherever connections are tampered with."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from shop_cluster import jaeger
from shop_cluster.databases import ensure_databases
from shop_cluster.failures import ClusterError
from shop_cluster.missing import install_missing
from shop_cluster.ports import HOST, pick_free_port
from shop_cluster.readiness import failure_of
from shop_cluster.servers import SERVERS
from shop_cluster.services import SERVICES, environment, one_shots, service_program, write_secret_files
from shop_cluster.state import State
from shop_cluster.supervise import Program
from shop_cluster.throw_away import close_state, open_state
from shop_cluster.up import run_one_shot
from shop_faults.balancer import open_balancer
from shop_faults.oracles import Totals
from shop_faults.processes import Failure, Part
from shop_faults.proxy import TcpProxy, open_proxy


@dataclass(frozen=True, slots=True)
class Topology:
    """What a scenario needs beyond one of each process."""

    proxied: frozenset[str] = frozenset()
    """Ports that everybody else reaches through a proxy: `postgres`, `mongo`, `redis`, `kafka`, `users`, `orders`,
    `otlp_http`."""
    twice: frozenset[str] = frozenset()
    """Services of which a second one runs, named with `-2` behind."""
    balanced: bool = False
    """Whether the APIs that are there twice are reached through a load balancer."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Settings of the services that differ from the local cluster's."""
    traced: bool = False


@dataclass(slots=True)
class Lab:
    """Its parts by name; `state` holds the ports as the parts themselves have them."""

    state: State
    parts: dict[str, Part]
    proxies: dict[str, TcpProxy]
    gateway_urls: tuple[str, ...]
    forged: set[str] = field(default_factory=set)
    """Aggregates of events that no service wrote."""
    totals: Totals = field(default_factory=Totals)
    """As of the end of the last run."""

    @property
    def services(self) -> list[Part]:
        return [part for name, part in self.parts.items() if name.removesuffix("-2") in SERVICES]

    def sabotage(self, name: str, **variables: str) -> None:
        """Have a service start with these `SHOP_FAULTS_…` variables from the next time on; without any, whole again."""
        module = SERVICES[name.removesuffix("-2")]
        cleared = dict.fromkeys(("FAILPOINT", "AT", "FUSE", "MUTATION"), "")
        asked = {f"SHOP_FAULTS_{key}": value for key, value in (cleared | variables).items()}
        self.parts[name].change(
            command=python_command("shop_faults.launch", module),
            environment=asked | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    async def wait_ready(self, seconds: float = 60) -> None:
        """Everything that runs for the services answers again."""
        async with asyncio.timeout(seconds + 5):
            await asyncio.gather(*(part.wait_ready(seconds) for part in self.parts.values()))


@asynccontextmanager
async def open_lab(folder: Path, owner_pid: int, topology: Topology) -> AsyncIterator[Lab]:
    """Everything started and ready; ended and removed afterwards, also when the process `owner_pid` dies first."""
    throw_away = await asyncio.to_thread(open_state, folder, owner_pid)
    state = replace(throw_away, durable=True)
    write_secret_files(state)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, close_state, folder)
        proxies = {name: await _open_proxy(stack, state, name) for name in sorted(topology.proxied)}
        seen = replace(state, ports=state.ports | {name: proxy.port for name, proxy in proxies.items()})
        lab = Lab(state, {}, proxies, ())
        stack.push_async_callback(_end, lab)
        await _start_servers(lab, seen, topology)
        await ensure_databases(state)
        await asyncio.gather(*(run_one_shot(state, shot) for shot in one_shots(state).values()))
        await _start_services(lab, stack, seen, topology)
        yield lab


async def _open_proxy(stack: AsyncExitStack, state: State, name: str) -> TcpProxy:
    return await stack.enter_async_context(open_proxy(free_port(state), state.ports[name]))


def free_port(state: State) -> int:
    """One that no part of this cluster has; remembered, so that it is given once."""
    port = pick_free_port(state.ports.values())
    state.ports[f"extra_{port}"] = port
    return port


async def _start_servers(lab: Lab, seen: State, topology: Topology) -> None:
    async def start(name: str) -> None:
        if name in {"kafka", "mongo"}:
            await asyncio.to_thread(install_missing, name)
        program = await asyncio.to_thread(SERVERS[name], lab.state)
        if name == "kafka" and "kafka" in topology.proxied:
            _advertise(lab.state, seen.ports["kafka"])
        await _start(lab, lab.state, program, name)

    names = [*SERVERS]
    await asyncio.gather(*(start(name) for name in names))
    if topology.traced:
        binary = await asyncio.to_thread(jaeger.require_jaeger)
        await _start(lab, lab.state, jaeger.jaeger_program(lab.state, binary), "jaeger")


def _advertise(state: State, port: int) -> None:
    """Have the broker send its clients to a proxy, however they found it."""
    config = state.folder / "kafka" / "server.properties"
    real = f"advertised.listeners=CLIENT://{HOST}:{state.ports['kafka']}"
    text = config.read_text()
    if real not in text:
        raise ClusterError("Kafka's configuration has another form than expected", remedy=f"see {config}")
    config.write_text(text.replace(real, f"advertised.listeners=CLIENT://{HOST}:{port}"))


async def _start_services(lab: Lab, stack: AsyncExitStack, seen: State, topology: Topology) -> None:
    variables = dict(topology.variables)
    if not topology.traced:
        variables |= {f"{service}_TRACING__ENDPOINT": "" for service in ("USERS", "ORDERS", "GATEWAY")}
    backends: dict[str, dict[int, Failure]] = {}
    balanced = {name: free_port(seen) for name in topology.twice & {"users", "orders", "gateway"} if topology.balanced}
    around = replace(seen, ports=seen.ports | balanced)
    for name in SERVICES:
        for suffix in ("", "-2") if name in topology.twice else ("",):
            # It listens on its own port, whatever the others reach it by.
            own = {each: free_port(seen) if suffix else lab.state.ports[each] for each in _own_ports(name)}
            listening = replace(around, ports=around.ports | own)
            prefix = name.removesuffix("-worker").upper() + "_"
            program = replace(
                service_program(around, name),
                name=name + suffix,
                environment=environment(around, name)
                | {f"{prefix}HTTP__PORT": str(own[name.replace("-", "_")])}
                | ({"GATEWAY_HTTP__METRICS_PORT": str(own["gateway_metrics"])} if name == "gateway" else {})
                | {key: value for key, value in variables.items() if key.startswith(prefix)},
            )
            part = await _start(lab, listening, program, name, wait=False)
            part.keep_alive = True
            backends.setdefault(name, {})[own[name.replace("-", "_")]] = part.failure
    for name, port in balanced.items():
        await stack.enter_async_context(open_balancer(port, backends[name]))
    ports = [balanced["gateway"]] if "gateway" in balanced else [*backends["gateway"]]
    lab.gateway_urls = tuple(f"http://{HOST}:{port}" for port in ports)
    await lab.wait_ready()


def _own_ports(name: str) -> tuple[str, ...]:
    return ("gateway", "gateway_metrics") if name == "gateway" else (name.replace("-", "_"),)


async def _start(lab: Lab, state: State, program: Program, probe: str, *, wait: bool = True) -> Part:
    async def failure() -> str | None:
        return await failure_of(state, probe)

    part = Part(program, lab.state.folder, lab.state.log(program.name), failure)
    lab.parts[program.name] = part
    await part.start()
    if wait:
        await part.wait_ready()
    return part


async def _end(lab: Lab) -> None:
    """Services first, then servers, all by force: what they hold is thrown away."""
    for part in lab.parts.values():
        part.keep_alive = False
    for part in reversed(lab.parts.values()):
        await part.kill()


def python_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]
