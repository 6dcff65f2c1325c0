"""Programs of our own run as real processes, and a patient look at what they do."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop_cluster.ports import pick_free_port
from shop_common.testing import until

_PATIENCE_SECONDS = 60


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port nobody has just now, and that no client is given meanwhile."""
    return pick_free_port


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    return until


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port where connections are taken and nothing is ever said."""
    writers = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class Proxy:
    """Stands before a server on a port of its own, and fails as networks and servers do."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._stranded: list[asyncio.Event] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        """Begin, or come back where it was."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        """Nothing passes any more, and nobody is told: new connections are taken, and stay silent too."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def strand(self) -> None:
        """The connections there are stay silent for good; new ones are served."""
        self._flows.clear()
        self._stranded.append(self._flows)
        self._flows = asyncio.Event()
        self._flows.set()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Gone: connections end, and new ones are refused."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for flows in (*self._stranded, self._flows):
            flows.set()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with suppress(ConnectionError):
            self._writers.add(writer)
            flows = self._flows
            await flows.wait()
            from_server, to_server = await asyncio.open_connection(*self._target)
            self._writers.add(to_server)
            await asyncio.gather(self._pass(reader, to_server, flows), self._pass(from_server, writer, flows))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        try:
            while data := await reader.read(65536):
                await flows.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)


@pytest.fixture
async def proxy() -> AsyncIterator[Callable[[str, int], Awaitable[Proxy]]]:
    """`await proxy(host, port)`: one before that server."""
    opened = []

    async def open_proxy(host: str, port: int) -> Proxy:
        opened.append(Proxy(host, port))
        await opened[-1].listen()
        return opened[-1]

    yield open_proxy
    for each in opened:
        await each.close()


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: list[dict[str, Any]]
    """Its log, one object a line."""
    err: list[str]


@dataclass(frozen=True, slots=True)
class Program:
    process: Process
    port: int

    async def get(self, path: str, port: int | None = None) -> httpx.Response:
        """Ask until it answers: it may only just have been started."""
        async with asyncio.timeout(_PATIENCE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    return await client.get(f"http://127.0.0.1:{port or self.port}{path}")
                except httpx.TransportError:
                    assert self.process.returncode is None, "it ended instead of answering"
                    await asyncio.sleep(0.05)

    async def ends(self, send: signal.Signals | None = None) -> Ended:
        if send is not None:
            self.process.send_signal(send)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        log = [json.loads(line) for line in out.decode().splitlines()]
        return Ended(self.process.returncode, log, err.decode().splitlines())


Start = Callable[..., Awaitable[Program]]


@pytest.fixture
async def start(free_port: Callable[[], int], tmp_path: Path) -> AsyncIterator[Start]:
    """`await start("api", SAMPLE_HTTP__WORKERS=2)`: the sample on a port of its own; ended with the test."""
    started: list[Program] = []

    async def run(kind: str, **variables: object) -> Program:
        environment = os.environ | {"SAMPLE_SECRETS_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
        port = int(str(variables.setdefault("SAMPLE_HTTP__PORT", free_port())))
        environment |= {name: str(value) for name, value in variables.items()}
        script = Path(__file__).with_name("sample_service.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), kind, env=environment, cwd=tmp_path, stdout=PIPE, stderr=PIPE
        )
        started.append(Program(process, port))
        return started[-1]

    yield run
    for program in started:
        if program.process.returncode is None:
            await program.ends(signal.SIGTERM)
