"""Which port each part listens on, and whether it is free."""

import os
import secrets
import socket
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from shop_cluster.failures import ClusterError
from shop_cluster.processes import find_listener

HOST = "127.0.0.1"

DEFAULTS: Mapping[str, int] = {
    "gateway": 8000,
    "gateway_metrics": 8010,
    "users": 8001,
    "orders": 8002,
    "users_worker": 8011,
    "orders_worker": 8012,
    "postgres": 15432,
    "redis": 16379,
    "kafka": 19092,
    "kafka_controller": 19093,
    "mongo": 37017,
    "jaeger": 16686,
    "jaeger_grpc": 16685,
    "otlp_grpc": 4317,
    "otlp_http": 4318,
    "jaeger_health": 13133,
    "mail": 1025,
    "mail_pages": 8025,  # in Docker only
}

# Outside the range from which the kernel takes ports for outgoing connections (32768 and up on Linux).
FREE_PORT_RANGE = range(20000, 32000)


def read_env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines of an .env file; comments and blank lines are skipped, quotes around a value removed."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def variable(name: str) -> str:
    """The environment variable that moves a port."""
    return f"SHOP_PORT_{name.upper()}"


def configured_ports(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """The defaults, moved where the environment says so."""
    ports = {}
    for name, default in DEFAULTS.items():
        value = environment.get(variable(name)) or str(default)
        if not value.isdecimal() or not 0 < int(value) < 65536:  # noqa: PLR2004 - the protocol's bound
            raise ClusterError(f"{variable(name)}={value} is not a port", remedy="give a number from 1 to 65535")
        ports[name] = int(value)
    if len(set(ports.values())) < len(ports):
        twice = [name for name, port in ports.items() if list(ports.values()).count(port) > 1]
        raise ClusterError(f"the same port for {' and '.join(twice)}", remedy=f"change {variable(twice[0])}")
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def pick_free_port(taken: Collection[int] = ()) -> int:
    """A port that nobody has just now, at random, and that is none of these."""
    while (port := secrets.choice(FREE_PORT_RANGE)) in taken or not is_free(port):
        pass
    return port


def pick_free_ports() -> dict[str, int]:
    """A free port for each name, at random, so that clusters side by side rarely meet."""
    ports: dict[str, int] = {}
    for name in DEFAULTS:
        ports[name] = pick_free_port(ports.values())
    return ports


def require_free(ports: Mapping[str, int], names: Iterable[str]) -> None:
    """Raise for the first of the named ports that another process holds, naming that process where it can be seen."""
    for name in names:
        if not is_free(ports[name]):
            holder = find_listener(ports[name])
            raise ClusterError(
                f"port {ports[name]}, which {name.replace('_', ' ')} needs, is taken by {holder or 'another process'}",
                remedy=f"stop that process, or choose another port: {variable(name)}={ports[name] + 1000} make up",
            )
