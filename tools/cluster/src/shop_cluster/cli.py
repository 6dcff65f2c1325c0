"""The command line: `python -m shop_cluster up|down|nuke|status|logs|urls|seed|trace|dev|doctor`."""

import asyncio
import contextlib
import logging
import os
import subprocess
import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from shop_cluster import docker, jaeger, screens, trace
from shop_cluster.dev import watch
from shop_cluster.doctor import examine
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST
from shop_cluster.readiness import PROBES, failure_of
from shop_cluster.running import end
from shop_cluster.seed import seed as make_demo_data
from shop_cluster.state import State, checkout_state
from shop_cluster.supervise import Supervisor
from shop_cluster.up import bring_up

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The local cluster.", pretty_exceptions_enable=False)


class Mode(StrEnum):
    """Where the servers come from."""

    DOCKER = "docker"
    LOCAL = "local"


def _running_mode(state: State) -> Mode:
    kept = state.place("mode")
    return Mode(kept.read_text()) if kept.exists() else Mode.LOCAL


def _choose_mode(state: State) -> Mode:
    """`MODE` says it; else what runs already; else Docker where it can."""
    wanted = os.environ.get("MODE", "")
    if wanted and wanted not in set(Mode):
        raise ClusterError(f"MODE={wanted} is unknown", remedy="MODE=docker or MODE=local")
    reason = docker.why_not() if wanted != Mode.LOCAL else None
    if wanted == Mode.DOCKER and reason:
        raise ClusterError(reason, remedy="start Docker, or `make up MODE=local`")
    if wanted:
        return Mode(wanted)
    if Supervisor(state).is_running():
        return Mode.LOCAL
    if reason is None:
        try:
            docker.compose(state, "pull", "--ignore-buildable")
        except ClusterError:
            reason = "the images cannot be pulled"
    if reason:
        screens.console.print(f"{reason}, so the servers run as plain processes (MODE=local)")
        return Mode.LOCAL
    return Mode.DOCKER


@app.command()
def up() -> None:
    """Start everything; harmless when it runs already."""
    started = time.monotonic()
    with screens.failing_clearly():
        state = checkout_state()
        mode = _choose_mode(state)
        state.place("mode").write_text(mode)
        if mode == Mode.DOCKER:
            docker.compose(state, "up", "--build", "--detach", "--wait")
        else:
            with screens.reporting() as reporter:
                asyncio.run(bring_up(state, reporter))
        make_demo_data(state)
        screens.show_up(state, started, is_local=mode == Mode.LOCAL)


@app.command()
def down() -> None:
    """Stop everything; what was stored stays."""
    with screens.failing_clearly():
        state = checkout_state()
        if _running_mode(state) == Mode.DOCKER:
            docker.compose(state, "down", "--remove-orphans")
        end(state)
        screens.console.print("stopped")


@app.command()
def nuke() -> None:
    """Stop everything and throw away what was stored."""
    with screens.failing_clearly():
        state = checkout_state()
        if _running_mode(state) == Mode.DOCKER:
            docker.compose(state, "down", "--remove-orphans", "--volumes")
        end(state)
        state.remove()
        screens.console.print("stopped, and all its data removed")


@app.command()
def status() -> None:
    """Each part: whether it runs, and whether it answers. Exit code 1 unless all do."""
    with screens.failing_clearly():
        state = checkout_state()
        if _running_mode(state) == Mode.DOCKER:
            docker.compose(state, "ps", "--all")
            return
        processes = Supervisor(state).processes()
        if not processes:
            raise ClusterError("the cluster is not running", remedy="make up")
        failures = asyncio.run(_failures(state))
    table = Table(box=None, padding=(0, 2))
    for header in ("part", "process", "pid", "answers"):
        table.add_column(header)
    for name, failure in failures.items():
        info = processes.get(name, {"statename": "-", "pid": "-"})
        answer = "[green]yes" if failure is None else f"[red]no[/]: {escape(failure.splitlines()[0][:90])}"
        table.add_row(name, info["statename"].lower(), str(info["pid"] or "-"), answer)
    screens.console.print(table)
    if jaeger.is_building(state):
        screens.console.print(f"Jaeger is being built; its log: {state.log(jaeger.LOG)}")
    raise typer.Exit(0 if not any(failures.values()) else 1)


async def _failures(state: State) -> dict[str, str | None]:
    return dict(zip(PROBES, await asyncio.gather(*(failure_of(state, name) for name in PROBES)), strict=True))


@app.command()
def logs(part: Annotated[str, typer.Argument(help="one part, e.g. users-worker; all without it")] = "") -> None:
    """Follow the logs."""
    with screens.failing_clearly():
        state = checkout_state()
        if _running_mode(state) == Mode.DOCKER:
            docker.compose(state, "logs", "--follow", "--tail", "50", *([part] if part else []))
            return
        files = sorted(state.place("logs", "any").parent.glob(f"{part or '*'}.log"))
        if not files:
            names = ", ".join(sorted(file.stem for file in state.place("logs", "any").parent.glob("*.log")))
            raise ClusterError(f"no log of {part or 'anything'} yet", remedy=f"one of: {names}" if names else "make up")
    try:
        subprocess.run(["tail", "-n", "50", "-F", *map(str, files)], check=False)
    except KeyboardInterrupt:
        return


@app.command()
def urls() -> None:
    """Where everything is, and who may log in."""
    with screens.failing_clearly():
        state = checkout_state()
        screens.show_urls(state, is_local=_running_mode(state) == Mode.LOCAL)


@app.command()
def seed() -> None:
    """Make the demo data, through the public API; adds nothing the second time."""
    with screens.failing_clearly():
        state = checkout_state()
        counts = make_demo_data(state)
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        screens.console.print(f"the demo user's orders: {said}")
        screens.show_urls(state, is_local=_running_mode(state) == Mode.LOCAL)


@app.command("trace")
def trace_command(
    *, deactivate: Annotated[bool, typer.Option("--deactivate", help="follow a user's deactivation instead")] = False
) -> None:
    """Follow one order through every service, and draw its trace."""
    with screens.failing_clearly():
        state = checkout_state()
        if jaeger.find_jaeger() is None and _running_mode(state) == Mode.LOCAL:
            log = state.log(jaeger.LOG)
            raise ClusterError(
                "Jaeger is not built yet", remedy=f"wait some minutes; `make up` starts it; its log: {log}"
            )
        trace_id = trace.deactivate_traced_user(state) if deactivate else trace.place_traced_order(state)
        way = trace.DEACTIVATION_WAY if deactivate else trace.ORDER_WAY
        spans = trace.wait_for_trace(state, trace_id, way)
        title = "a user's deactivation" if deactivate else "an order"
        trace.draw(screens.console, spans, f"{title}: {len(spans)} spans, {' → '.join(way)}")
        screens.console.print(f"\nin Jaeger: http://{HOST}:{state.ports['jaeger']}/trace/{trace_id}")


@app.command()
def dev() -> None:
    """Start everything, then restart services as their source changes."""
    up()
    screens.console.print("\nwatching libs/ and services/ (Ctrl-C ends the watching; the cluster stays up)")
    with contextlib.suppress(KeyboardInterrupt), screens.failing_clearly():
        state = checkout_state()
        if _running_mode(state) == Mode.DOCKER:
            docker.compose(state, "watch", override=docker.FOR_DEVELOPMENT)
        else:
            watch(state, screens.console)


@app.command()
def doctor() -> None:
    """What this machine has of what the cluster needs. Exit code 1 when something is missing."""
    with screens.failing_clearly():
        findings = examine(checkout_state())
    colours = {"ok": "green", "--": "yellow", "no": "red"}
    for finding in findings:
        screens.console.print(
            f"[{colours[finding.mark]}]{finding.mark}[/]  {finding.subject:<10} {escape(finding.says)}"
        )
    raise typer.Exit(1 if any(finding.mark == "no" for finding in findings) else 0)


def main() -> None:
    logging.disable()  # clients log each refused attempt while a server starts; the probes say what matters
    app()
