"""What is compared: each peer as one process on core 0; the stub of the services, Redis and Kafka on core 1."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from shop_bench import dashboard
from shop_bench.tools import BENCH, NGINX_MODULES, build, find_nginx, find_program
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST, pick_free_port
from shop_cluster.readiness import last_lines
from shop_cluster.running import ensure_server
from shop_cluster.services import SERVICES, command, environment, one_shots
from shop_cluster.state import State
from shop_cluster.supervise import Program, Supervisor
from shop_cluster.throw_away import close_state, open_state
from shop_cluster.up import run_one_shot
from shop_common.testing import TokenIssuer

_START_SECONDS: Final = 60
_OK: Final = 200
MANY: Final = "1000000"


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    program: str
    """Its name in the supervisor."""
    url: str
    """Of the dashboard."""
    what: str = "gathered each time"
    pid: int = 0
    """Known once it answers."""


@contextmanager
def pinned() -> Iterator[None]:
    """This process and all that it starts on core 1, unless they are moved."""
    before = os.sched_getaffinity(0)
    if not {0, 1} <= before:
        raise ClusterError("cores 0 and 1 are needed", remedy="run where this process may use both")
    os.sched_setaffinity(0, {1})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def throw_away_cluster() -> Iterator[State]:
    """An empty one, with nothing running; it ends with this process at the latest."""
    folder = Path(tempfile.gettempdir()) / f"shop-bench-{os.getpid()}"
    try:
        yield open_state(folder, os.getpid())
    finally:
        close_state(folder)


class Stage:
    """Where the peers stand: the servers that the gateway needs, the stub, and who is told to start."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.issuer = TokenIssuer()
        self.supervisor = Supervisor(state)
        self.bearer = {"Authorization": f"Bearer {self.token(dashboard.USER_ID)}"}
        self._upstream = pick_free_port()

    def token(self, user_id: str) -> str:
        return self.issuer.token(user_id, exp=int(time.time()) + dashboard.TOKEN_SECONDS)

    @property
    def upstream_url(self) -> str:
        return f"http://{HOST}:{self._upstream}"

    async def start_servers(self, *, usual: bool) -> None:
        """Redis, Kafka with its topics, and the stub, as fast as can be or as services usually are."""
        for name in ("redis", "kafka"):
            await ensure_server(self.state, name)
        await run_one_shot(self.state, one_shots(self.state)["topics"])
        answers = self.state.place("answers.json")
        answers.write_text(json.dumps(await dashboard.answers(self.issuer)))
        listen = f"{HOST}:{self._upstream}"
        flags = ["-usual"] if usual else []
        stub = Program("upstream", [build("upstream"), "-listen", listen, "-answers", str(answers), *flags])
        self.supervisor.apply(stub)
        await wait_for(self.state, "upstream", f"{self.upstream_url}/v1/orders", {})

    def start_gateway(self) -> Peer:
        """With everything on: tokens, a quota nobody meets, metrics, access log, one request in ten traced."""
        url = self.upstream_url
        variables = {
            "USERS_URL": url,
            "ORDERS_URL": url,
            "TOKENS__JWKS_URL": f"{url}/.well-known/jwks.json",
            "TRACING__ENDPOINT": url,
            "TRACING__SAMPLE_RATIO": "0.1",
            "RATE_LIMIT__REQUESTS": MANY,
            "RATE_LIMIT__WINDOW_SECONDS": "1",
            "HTTP__LIMIT_CONCURRENCY": "20000",
            "HTTP__MAX_CONNECTIONS": "20000",
            "STREAMS__PER_PROCESS": "15000",
        }
        own = {f"GATEWAY_{name}": value for name, value in variables.items()}
        port = self.state.ports["gateway"]
        self._start("gateway", command(SERVICES["gateway"]), environment(self.state, "gateway") | own)
        return Peer("this gateway, everything on", "gateway", f"http://{HOST}:{port}{dashboard.PATH}")

    def start_tutorial(self, client: str, what: str) -> Peer:
        """With one of the clients that `tutorial.py` knows."""
        port, name = pick_free_port(), f"tutorial-{client}"
        self._start(
            name,
            command("uvicorn", "shop_bench.tutorial:app", "--host", HOST, "--port", str(port)),
            {"TUTORIAL_UPSTREAM": self.upstream_url, "TUTORIAL_CLIENT": client},
        )
        return Peer(f"the tutorial's pattern, {what}", name, f"http://{HOST}:{port}{dashboard.PATH}")

    def start_go(self) -> Peer:
        port = pick_free_port()
        self._start("go", [build("aggregator"), "-listen", f"{HOST}:{port}", "-upstream", self.upstream_url], {})
        return Peer("Go, net/http", "go", f"http://{HOST}:{port}{dashboard.PATH}")

    def start_nginx(self) -> Peer:
        port, folder = pick_free_port(), self.state.place("nginx", "nginx.conf").parent
        text = (BENCH / "nginx.conf").read_text()
        config = folder / "nginx.conf"
        config.write_text(text.format(modules=NGINX_MODULES, folder=folder, upstream=self._upstream, port=port))
        self._start("nginx", [find_nginx(), "-p", str(folder), "-c", str(config), "-e", str(folder / "early.log")], {})
        return Peer("nginx + Lua", "nginx", f"http://{HOST}:{port}{dashboard.PATH}")

    def _start(self, name: str, program: list[str], variables: Mapping[str, str]) -> None:
        """On core 0; what it says on standard output, an access log, goes to /dev/null without a reader's cost."""
        pinned = [find_program("taskset", "util-linux"), "-c", "0", *program]
        shell = ["sh", "-c", 'exec "$0" "$@" >/dev/null', *pinned]
        self.supervisor.apply(Program(name, shell, {**variables, "PYTHONPATH": os.pathsep.join(sys.path)}))

    def pid(self, name: str) -> int:
        return int(self.supervisor.processes()[name]["pid"])


@contextmanager
def open_stage(*, usual: bool = False) -> Iterator[Stage]:
    with pinned(), throw_away_cluster() as state:
        stage = Stage(state)
        asyncio.run(stage.start_servers(usual=usual))
        yield stage


async def wait_for(state: State, program: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """The first answer of 200."""
    said = "nothing"
    deadline = time.monotonic() + _START_SECONDS
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        while time.monotonic() < deadline:
            try:
                response = await client.get(url)
            except httpx.TransportError as error:
                said = type(error).__name__
            else:
                if response.status_code == _OK:
                    return response
                said = f"{response.status_code} {response.text[:200]}"
            await asyncio.sleep(0.1)
    raise ClusterError(f"{program} does not answer: {said}", log_lines=last_lines(state, program))
