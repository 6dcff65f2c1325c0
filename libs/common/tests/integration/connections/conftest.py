"""A server that answers byte by byte as it is told, and a look at what the client left behind; on both loops."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import uvloop

from shop_common.connections import HttpPool
from shop_common.http1 import CallFailed, HttpCall, Response

_PATIENCE_SECONDS = 30
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Services run on uvloop, tools and other tests on asyncio's."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass(slots=True)
class Visit:
    """One request as it came."""

    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, *pieces: bytes) -> None:
        """Each in a packet of its own, as far as that is ours to say."""
        for piece in pieces:
            if self.writer.is_closing():
                raise ConnectionResetError  # uvloop's own is no OSError
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def until_cut(self) -> None:
        with suppress(ConnectionError):
            await self.reader.read()


Behaviour = Callable[[Visit], Awaitable[None]]


@dataclass(slots=True)
class Peer:
    """What it does at a path is added by `on`; elsewhere it says ok."""

    url: str = ""
    connections: int = 0
    visits: list[Visit] = field(default_factory=list)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)

    def on(self, path: str, behaviour: Behaviour) -> None:
        self.behaviours[path] = behaviour

    def answers(self, path: str, *pieces: bytes, ends: bool = False, resets: bool = False) -> None:
        async def answer(visit: Visit) -> None:
            await visit.say(*pieces)
            if resets:
                visit.writer.transport.abort()
            if ends:
                visit.writer.close()

        self.on(path, answer)

    def is_silent(self, path: str) -> None:
        self.on(path, Visit.until_cut)

    @property
    def targets(self) -> list[str]:
        return [visit.head.split()[1] for visit in self.visits]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110 - the other side is what no event of ours tells of
                await asyncio.sleep(0.002)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                visit = Visit(head, await reader.readexactly(int(length or 0)), reader, writer)
                self.visits.append(visit)
                behaviour = self.behaviours.get(head.split()[1])
                await (visit.say(OK) if behaviour is None else behaviour(visit))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


def _is_left(peer: Peer) -> bool:
    return not peer.writers


@pytest.fixture
async def open_peer() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    """`await open_peer(ssl=…)`."""
    opened: list[tuple[asyncio.Server, Peer]] = []

    async def open_one(**options: Any) -> Peer:
        peer = Peer()
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, **options)
        peer.url = f"{'https' if options else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        opened.append((server, peer))
        return peer

    yield open_one
    for server, peer in opened:
        server.close()
        for writer in [*peer.writers]:
            writer.transport.abort()
        await peer.until(partial(_is_left, peer))


@pytest.fixture
async def peer(open_peer: Callable[..., Awaitable[Peer]]) -> Peer:
    return await open_peer()


Begun = tuple[HttpCall, asyncio.Future[Response | CallFailed]]


@pytest.fixture
def begin() -> Callable[..., Begun]:
    """`call, answer = begin(pool, "/path", seconds=1)`."""

    def begin_call(
        pool: HttpPool,
        target: str = "/ok",
        *,
        seconds: float = 10,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Begun:
        answer: asyncio.Future[Response | CallFailed] = asyncio.get_running_loop().create_future()
        method = "GET" if body is None else "POST"
        return pool.send(method, target, headers or {}, body, seconds=seconds, done=answer.set_result), answer

    return begin_call


@pytest.fixture
def fetch(begin: Callable[..., Begun]) -> Callable[..., Awaitable[Response]]:
    """`await fetch(pool, "/path", seconds=1)`: the answer, or the failure raised."""

    async def fetch_one(pool: HttpPool, target: str = "/ok", **options: Any) -> Response:
        _, answer = begin(pool, target, **options)
        result = await answer
        if isinstance(result, CallFailed):
            raise result
        return result

    return fetch_one


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No error that only the loop saw; of an open transport Python warns."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    yield
    gc.collect()
    assert errors == []
