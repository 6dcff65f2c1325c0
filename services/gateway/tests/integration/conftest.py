"""Upstream servers that can be told how to behave, and the gateway in front of them."""

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from shop_common.testing import TokenIssuer, open_app_client
from shop_gateway.app import create_app
from shop_gateway.settings import Settings

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
USER = {"id": USER_ID, "email": "ada@example.com", "username": "ada"}
ORDERS = {"items": [{"id": "o-1", "total": {"amount": 450, "currency": "EUR"}}], "next_cursor": None}
STATS = {"orders": 1, "paid": 0, "cancelled": 0, "spent": []}


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived upstream; header names in lower case, repeated ones joined by `, `."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


class Held:
    """Requests that wait until they are let go."""

    def __init__(self) -> None:
        self._arrived = asyncio.Semaphore(0)
        self._open = asyncio.Event()

    async def reached(self, count: int) -> None:
        """Wait until `count` more requests have arrived."""
        for _ in range(count):
            await self._arrived.acquire()

    def open(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        self._arrived.release()
        await self._open.wait()


class Act:
    """How an upstream may behave."""

    @staticmethod
    def raw(data: bytes, *, held: Held | None = None) -> Behaviour:
        """Exactly these bytes, once let go."""

        async def behave(_: Seen, writer: asyncio.StreamWriter) -> None:
            if held is not None:
                await held.wait()
            writer.write(data)

        return behave

    @classmethod
    def answer(cls, document: Any, status: int = 200, *lines: str, held: Held | None = None) -> Behaviour:
        """A JSON answer with further header lines."""
        body = json.dumps(document).encode()
        kind = "application/problem+json" if status >= 400 else "application/json"
        head = [f"HTTP/1.1 {status} Status", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines]
        return cls.raw("\r\n".join([*head, "", ""]).encode() + body, held=held)

    @classmethod
    def problem(cls, status: int, code: str, *lines: str, held: Held | None = None) -> Behaviour:
        document = {"type": "about:blank", "status": status, "code": code, "detail": f"no: {code}"}
        return cls.answer(document, status, *lines, held=held)

    @classmethod
    def echo(cls) -> Behaviour:
        """The query of the request."""

        async def behave(seen: Seen, writer: asyncio.StreamWriter) -> None:
            await cls.answer({"query": seen.target.partition("?")[2]})(seen, writer)

        return behave

    @staticmethod
    def broken(data: bytes) -> Behaviour:
        """These bytes, then a reset."""

        async def behave(_: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            await writer.drain()
            writer.transport.abort()

        return behave

    @staticmethod
    def flood(head: bytes, piece: bytes, ended: asyncio.Event) -> Behaviour:
        """Pieces without end, until the other side hangs up."""

        async def behave(_: Seen, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(head)
                while True:
                    writer.write(piece)
                    await writer.drain()
            finally:
                ended.set()

        return behave

    @staticmethod
    def silence() -> Behaviour:
        """No answer until the other side gives up."""

        async def behave(_: Seen, writer: asyncio.StreamWriter) -> None:
            await writer.wait_closed()

        return behave


@dataclass
class Upstream:
    """An HTTP server on a socket: one behaviour per method and path, everything it saw, and how much of it at once."""

    port: int = 0
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, method_and_path: str, behaviour: Behaviour) -> None:
        self.behaviours[method_and_path] = behaviour

    def last(self, path: str) -> Seen:
        return next(seen for seen in reversed(self.seen) if seen.target.startswith(path))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen = await _read_request(reader)
                self.seen.append(seen)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    behave = self.behaviours.get(f"{seen.method} {seen.target.partition('?')[0]}")
                    await (behave or Act.problem(404, "not_found"))(seen, writer)
                finally:
                    self.at_once -= 1
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, target, headers, body)


@asynccontextmanager
async def open_upstream_server(upstream: Upstream) -> AsyncIterator[Upstream]:
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(upstream.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", upstream.port)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@pytest.fixture
def act() -> type[Act]:
    return Act


@pytest.fixture
def hold() -> type[Held]:
    return Held


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture
async def users(issuer: TokenIssuer) -> AsyncIterator[Upstream]:
    async with open_upstream_server(Upstream()) as upstream:
        upstream.on("GET /.well-known/jwks.json", Act.answer(await issuer.jwks()))
        upstream.on(f"GET /v1/users/{USER_ID}", Act.answer(USER, 200, 'ETag: "3"'))
        upstream.on(f"GET /v1/users/{USER_ID}/stats", Act.answer(STATS))
        yield upstream


@pytest.fixture
async def orders() -> AsyncIterator[Upstream]:
    async with open_upstream_server(Upstream()) as upstream:
        upstream.on("GET /v1/orders", Act.answer(ORDERS))
        yield upstream


class Restartable:
    """An orders service that stops and starts on one port; nothing listens there at first."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._upstream = Upstream(port=probe.getsockname()[1])
        self._upstream.on("GET /v1/orders", Act.answer(ORDERS))
        self.url = self._upstream.url
        self._running = AsyncExitStack()

    async def start(self) -> None:
        await self._running.enter_async_context(open_upstream_server(self._upstream))

    async def stop(self) -> None:
        await self._running.aclose()


@pytest.fixture
async def restartable() -> AsyncIterator[Restartable]:
    upstream = Restartable()
    yield upstream
    await upstream.stop()


MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(users: Upstream, orders: Upstream, redis_url: str) -> MakeSettings:
    """Settings in front of the two upstreams, counting under a prefix no other test has, with a quota nobody meets.

    There is no Kafka, and nothing is fresh for long: tests of the cache ask for both.
    """

    def make(**changes: Any) -> Settings:
        usual: dict[str, Any] = {
            "users_url": users.url,
            "orders_url": orders.url,
            "kafka": {"bootstrap_servers": "127.0.0.1:9"},
            "cache": dict.fromkeys(("fresh_seconds", "revalidate_seconds", "error_seconds"), 1e-6),
            "redis": {"url": redis_url, "acquire_seconds": 30, "command_seconds": 30},
            "rate_limit": {"requests": 100_000, "key_prefix": f"{uuid.uuid4()}:", "redis_seconds": 30}
            | {name: {"requests": 100_000} for name in ("login", "registration")},
        }
        return Settings(**(usual | changes))

    return make


OpenGateway = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
async def open_gateway(make_settings: MakeSettings) -> AsyncIterator[Callable[..., Awaitable[httpx.AsyncClient]]]:
    """Start a gateway with changed settings; it stops when the test ends."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> httpx.AsyncClient:
            return await stack.enter_async_context(open_app_client(create_app(make_settings(**changes))))

        yield start


@pytest.fixture
async def gateway(open_gateway: Callable[..., Awaitable[httpx.AsyncClient]]) -> httpx.AsyncClient:
    return await open_gateway()


@pytest.fixture
def bearer(issuer: TokenIssuer) -> dict[str, str]:
    return issuer.bearer(USER_ID)


@pytest.fixture
async def mute_redis() -> AsyncIterator[str]:
    """The URL of a server that takes commands and never answers."""
    upstream = Upstream()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    upstream.serve = listen  # type: ignore[method-assign] # another protocol on the same kind of socket
    async with open_upstream_server(upstream):
        yield f"redis://127.0.0.1:{upstream.port}"
