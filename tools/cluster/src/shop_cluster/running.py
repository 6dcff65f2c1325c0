"""Starting single servers of a cluster, and ending all of it."""

import asyncio

from filelock import FileLock

from shop_cluster.missing import install_missing
from shop_cluster.processes import end_marked
from shop_cluster.readiness import wait_until_ready
from shop_cluster.servers import SERVERS
from shop_cluster.state import State
from shop_cluster.supervise import Supervisor

SERVER_SECONDS = 90


async def ensure_server(state: State, name: str) -> None:
    """Have one backing server run and answer; several processes may ask for the same one at once."""
    supervisor = Supervisor(state)
    await asyncio.to_thread(supervisor.start)
    with FileLock(state.place(f"{name}.lock")):
        if name in {"kafka", "mongo"}:
            await asyncio.to_thread(install_missing, name)
        program = await asyncio.to_thread(SERVERS[name], state)
        await asyncio.to_thread(supervisor.apply, program)
        await wait_until_ready(state, supervisor, name, seconds=SERVER_SECONDS)


def end(state: State) -> int:
    """Stop everything of this cluster, the services before the servers; returns how many had to be ended unasked.

    Works without supervisord too (it may have been killed): what carries the cluster's mark is found and ended.
    """
    supervisor = Supervisor(state)
    names = supervisor.processes()
    if names:
        supervisor.stop(name for name in names if name not in SERVERS)
        # What a test leaves behind is thrown away; only PostgreSQL must end well, or its shared memory stays.
        supervisor.stop(SERVERS if state.durable else ["postgres"])
        supervisor.shutdown()
    return end_marked(state.folder, grace_seconds=10 if state.durable else 0)
