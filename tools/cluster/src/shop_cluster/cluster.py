"""The whole cluster as a test sees it."""

import asyncio

from filelock import FileLock

from shop_cluster.ports import HOST
from shop_cluster.services import ADMIN_EMAIL, SERVICES
from shop_cluster.state import State
from shop_cluster.supervise import Supervisor
from shop_cluster.up import SilentReporter, bring_up, ensure_jaeger


class Cluster:
    """A running cluster: where its parts answer, who may log in, and which process is which."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.gateway_url, self.users_url, self.orders_url, self.jaeger_url = (
            f"http://{HOST}:{state.ports[name]}" for name in ("gateway", "users", "orders", "jaeger")
        )
        self.admin_email = ADMIN_EMAIL
        self.admin_password = state.secret("admin")

    @property
    def services(self) -> dict[str, int]:
        """The pid of each of the five processes, as of now: a killed one comes back with another."""
        processes = Supervisor(self.state).processes()
        return {name: processes[name]["pid"] for name in SERVICES}


def bring_up_once(state: State) -> None:
    """Bring the cluster up, Jaeger included however long its build takes; later callers find it up."""
    with FileLock(state.place("up.lock")):
        is_up = state.place("up")
        if not is_up.exists():
            asyncio.run(_bring_up(state))
            is_up.touch()


async def _bring_up(state: State) -> None:
    await bring_up(state, SilentReporter())
    await ensure_jaeger(state, Supervisor(state))
