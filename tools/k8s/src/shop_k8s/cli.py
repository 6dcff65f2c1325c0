"""The command line: `python -m shop_k8s check|check-server|up|policies`."""

import logging

import typer

from shop_cluster import screens
from shop_k8s import table
from shop_k8s.check import check as check_manifests
from shop_k8s.server import check_server as ask_server
from shop_k8s.up import bring_up

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Kubernetes.", pretty_exceptions_enable=False)


@app.command()
def check() -> None:
    """Build every combination, and validate, score and examine it."""
    with screens.failing_clearly():
        check_manifests()


@app.command()
def check_server() -> None:
    """Ask a real API server what it thinks of every object, in a dry run."""
    with screens.failing_clearly():
        ask_server()


@app.command()
def up() -> None:
    """Bring the platform to the cluster of the current kubectl context."""
    with screens.failing_clearly():
        bring_up()


@app.command()
def policies() -> None:
    """Write docs/k8s-policies.md anew."""
    table.FILE.write_text(table.render())


def main() -> None:
    logging.disable()
    app()
