"""What the command line shows: progress, the final screen, a failure."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from shop_cluster import jaeger, programs
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST
from shop_cluster.seed import DEMO_EMAIL, demo_password
from shop_cluster.services import ADMIN_EMAIL
from shop_cluster.state import State

PIPE_WIDTH = 160

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class PlainReporter:
    """A line per part, for logs and pipes."""

    def begin(self, part: str) -> None: ...

    def done(self, part: str, seconds: float) -> None:
        console.print(f"  {part:<14} ready after {seconds:4.1f} s")
        sys.stdout.flush()


class LiveReporter:
    """A line per part with its clock running, for terminals."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def begin(self, part: str) -> None:
        self._tasks[part] = self._progress.add_task(part, total=1)

    def done(self, part: str, seconds: float) -> None:  # noqa: ARG002 - the line shows its own clock
        self._progress.update(self._tasks[part], completed=1)


@contextmanager
def reporting() -> Iterator[PlainReporter | LiveReporter]:
    if not console.is_terminal:
        yield PlainReporter()
        return
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description:<14}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield LiveReporter(progress)


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn a `ClusterError` into its last log lines, one line of cause and one of remedy, and exit code 1."""
    try:
        yield
    except ClusterError as error:
        for line in error.log_lines:
            errors.print(f"  [dim]{escape(line)}")
        errors.print(f"[bold red]failed[/]: {escape(str(error))}")
        if error.remedy:
            errors.print(f"  [bold]try[/]: {escape(error.remedy)}")
        raise SystemExit(1) from None


def urls(state: State, *, is_local: bool) -> dict[str, str]:
    def at(port: str, path: str = "") -> str:
        return f"http://{HOST}:{state.ports[port]}{path}"

    return {
        "gateway": at("gateway"),
        "API docs": at("gateway", "/docs"),
        "Jaeger": at("jaeger") + ("  (still being built)" if is_local and jaeger.find_jaeger() is None else ""),
        "users": at("users", "/docs"),
        "orders": at("orders", "/docs"),
        "mails": str(state.mailbox) if is_local else at("mail_pages"),
    }


def show_urls(state: State, *, is_local: bool) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, url in urls(state, is_local=is_local).items():
        table.add_row(f"[bold]{name}", url)
    table.add_row("[bold]demo login", f"{DEMO_EMAIL}  {demo_password(state)}")
    table.add_row("[bold]administrator", f"{ADMIN_EMAIL}  {state.secret('admin')}")
    console.print(table)


def show_up(state: State, started: float, *, is_local: bool) -> None:
    gateway = urls(state, is_local=is_local)["gateway"]
    login = f"curl -s {gateway}/v1/auth/token -d username={DEMO_EMAIL} -d password={demo_password(state)}"
    pick = """sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/'"""
    console.print(f"\n[bold green]The cluster is up[/] after {time.monotonic() - started:.1f} s.\n")
    show_urls(state, is_local=is_local)
    console.print("\nOne request to paste:\n")
    console.print(f'curl -s {gateway}/v1/me/dashboard -H "Authorization: Bearer $({login} | {pick})"', markup=False)
    console.print()
    for note in notes(state) if is_local else ():
        console.print(f"[yellow]note[/]: {escape(note)}")
    console.print("next: [bold]make trace[/] follows one order through every service (make help lists the rest)")


def notes(state: State) -> list[str]:
    """What a user should know of this machine's cluster that the design would have otherwise."""
    found = []
    if programs.find_mongod() is None:
        found.append(
            "no mongod here, so a stand-in serves MongoDB's protocol: acknowledged writes survive a kill, but there are"
            " no secondary indexes and no transactions; put a mongod on PATH for the real one"
        )
    if jaeger.find_jaeger() is None:
        found.append(
            "Jaeger is being built in the background (some minutes, the first time only) and joins the cluster when"
            f" it is done; its log: {state.log(jaeger.LOG)}"
        )
    return found
