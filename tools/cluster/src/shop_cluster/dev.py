"""Restarting services when their source changes."""

import time
from pathlib import Path

from rich.console import Console

from shop_cluster.services import SERVICES
from shop_cluster.state import ROOT, State
from shop_cluster.supervise import Supervisor

POLL_SECONDS = 0.5


def watch(state: State, console: Console) -> None:
    """Restart what a saved file concerns, until interrupted: a service's file its own processes, common's all."""
    supervisor = Supervisor(state)
    before = _modified()
    while True:
        time.sleep(POLL_SECONDS)
        now = _modified()
        changed = {path for path, time_ in now.items() if before.get(path) != time_} | (before.keys() - now.keys())
        before = now
        for name in _concerned(changed):
            console.print(f"restarting {name}")
            supervisor.restart(name)


def _modified() -> dict[Path, int]:
    sources = (*ROOT.glob("libs/*/src"), *ROOT.glob("services/*/src"))
    return {path: path.stat().st_mtime_ns for source in sources for path in source.rglob("*.py") if path.exists()}


def _concerned(changed: set[Path]) -> list[str]:
    folders = {path.relative_to(ROOT).parts[:2] for path in changed}
    return [
        name
        for name in SERVICES
        if ("services", name.removesuffix("-worker")) in folders or any(top == "libs" for top, _ in folders)
    ]
