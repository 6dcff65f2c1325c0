"""The cluster in Docker Compose, where a Docker engine answers."""

import os
import shutil
import subprocess
from pathlib import Path

from shop_cluster.failures import ClusterError
from shop_cluster.ports import variable
from shop_cluster.services import ADMIN_EMAIL
from shop_cluster.state import ROOT, State, write_private

FILE = ROOT / "docker-compose.yml"
FOR_DEVELOPMENT = ROOT / "deploy" / "docker" / "compose.dev.yaml"
FOR_THIS_HOST = ROOT / "deploy" / "docker" / "compose.host.yaml"

# File name, which for a service's secret is the setting it is → the secret.
SECRETS = {
    "postgres_superuser": "postgres_superuser",
    "users_postgres__password": "postgres_users",
    "users_admin__password": "admin",
    "users_cursor_key": "cursor_key_users",
    "orders_cursor_key": "cursor_key_orders",
}


def why_not() -> str | None:
    """None where Compose v2 can run containers here, else the reason in words."""
    if shutil.which("docker") is None:
        return "there is no docker here"
    if _docker("compose", "version").returncode:
        return "docker has no Compose v2 here"
    if _docker("info").returncode:
        return "no Docker engine answers here"
    return None


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired as slow:
        return subprocess.CompletedProcess(slow.cmd, 1, "", "timed out")


def compose_environment(state: State) -> dict[str, str]:
    """What the Compose file asks for: this cluster's ports, and its secrets as files, which are written."""
    folder = state.place("compose", "secrets", "any").parent
    folder.parent.chmod(0o700)
    for name, secret in SECRETS.items():
        path = folder / name
        write_private(path, state.secret(secret))
        path.chmod(0o644)  # the containers' accounts must read it; the folder above is closed
    ports = {variable(name): str(port) for name, port in state.ports.items()}
    return {**os.environ, **ports, "SHOP_SECRETS": str(folder), "SHOP_ADMIN_EMAIL": ADMIN_EMAIL}


def compose(state: State, *arguments: str, override: Path | None = None) -> None:
    """Run Compose on this checkout's file, and on one that changes it; raises when it fails."""
    files = [part for file in (FILE, override) if file for part in ("--file", str(file))]
    done = subprocess.run(
        ["docker", "compose", "--project-directory", str(ROOT), *files, *arguments],
        env=compose_environment(state),
        check=False,
    )
    if done.returncode:
        raise ClusterError(
            f"docker compose {arguments[0]} ended with {done.returncode}",
            remedy="see the lines above; `make up MODE=local` does without Docker",
        )
