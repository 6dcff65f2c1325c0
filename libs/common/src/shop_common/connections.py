"""HTTP/1.1 calls to one server over a bounded pool of connections, answered by callbacks on the loop.

What a fan-out costs is decided here: a call is one write and one callback, without a task, a lock or another thread.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from urllib.parse import urlsplit

from shop_common.callbacks import result_of
from shop_common.http1 import (
    CallLate,
    ConnectFailed,
    Connection,
    ConnectionBroken,
    Done,
    HttpCall,
    PoolBusy,
    Response,
)
from shop_common.settings import HttpClientSettings

_HTTPS_PORT, _HTTP_PORT = 443, 80


class HttpPool:
    """Calls wait, first come first served, for a connection that is free or for a new one, and that not for long."""

    def __init__(self, url: str, settings: HttpClientSettings, max_body_bytes: int) -> None:
        parts = urlsplit(url)
        self.origin = parts._replace(path="").geturl()
        self.max_body_bytes = max_body_bytes
        self._base = parts.path.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (_HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host_field = f"host: {parts.netloc.rpartition('@')[2]}"
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[HttpCall] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, *, seconds: float, done: Done
    ) -> HttpCall:
        """Begin a call that ends within so many seconds, connecting included.

        `target` is the path and query as they go over the wire. ValueError: something in it, or in a header, would
        end a line.
        """
        lines = [f"{method} {self._base}{target} HTTP/1.1", self._host_field]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        text = "\r\n".join(lines)
        if text.count("\n") >= len(lines) or text.count("\r") >= len(lines):
            raise ValueError("a line break inside a line")
        request = f"{text}\r\n\r\n".encode() + (body or b"")
        loop = self._loop
        call = HttpCall(self, request, loop.time() + seconds, done)
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                call.timer = loop.call_later(seconds, call.on_late)
                connection.begin(call)
                return call
        if self._is_closed:
            call.timer = loop.call_soon(call.finish, ConnectionBroken())
            return call
        patience = self._settings.connect_seconds
        call.timer = loop.call_later(min(seconds, patience), self._on_waited, call, seconds <= patience)
        self._waiting.append(call)
        self._grow()
        return call

    async def call(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, *, seconds: float
    ) -> Response:
        """As `send`, for who waits; CallFailed where there is no answer."""
        return await result_of(lambda done: self.send(method, target, headers, body, seconds=seconds, done=done))

    def release(self, connection: Connection) -> None:
        """It has nothing to do."""
        if self._waiting:
            call = self._waiting.popleft()
            if call.timer is not None:
                call.timer.cancel()
            call.timer = self._loop.call_at(call.ends, call.on_late)
            connection.begin(call)
            return
        if len(self._idle) >= self._settings.max_idle_per_host:
            connection.drop()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._settings.idle_seconds, self._sweep)

    def leave_queue(self, call: HttpCall) -> None:
        self._waiting.remove(call)

    def forget(self, connection: Connection) -> None:
        """It is gone, or as good as."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()

    async def close(self) -> None:
        """Calls under way fail, and so does each that is sent afterwards."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        connecting = [*self._connecting]
        for task in connecting:
            task.cancel()
        while self._waiting:
            self._waiting.popleft().finish(ConnectionBroken())
        for connection in [*self._open]:
            connection.fail(ConnectionBroken())
        await asyncio.gather(*connecting, return_exceptions=True)
        await asyncio.sleep(0)  # in which the transports close

    def _grow(self) -> None:
        """Connect for those that wait."""
        while (
            len(self._waiting) > len(self._connecting)
            and len(self._open) + len(self._connecting) < self._settings.max_connections
        ):
            task = self._loop.create_task(self._connect(), context=Context())  # nobody's in particular
            self._connecting.add(task)

    async def _connect(self) -> None:
        connection = None
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            pass  # each that waits has a time of its own
        except OSError:
            if self._waiting:
                self._waiting.popleft().finish(ConnectFailed())
        finally:
            self._connecting.discard(asyncio.current_task())
        if connection is not None:
            self._open.add(connection)
            self.release(connection)
        self._grow()

    def _on_waited(self, call: HttpCall, is_late: bool) -> None:  # noqa: FBT001 - a timer's argument
        """It still has no connection."""
        self._waiting.remove(call)
        if is_late:
            call.finish(CallLate())
        else:
            call.finish(ConnectFailed() if self._connecting else PoolBusy())

    def _sweep(self) -> None:
        """Close what nobody has used for a while; the longest unused come first."""
        self._sweeper = None
        oldest = self._loop.time() - self._settings.idle_seconds
        for connection in [each for each in self._idle if each.idle_since <= oldest]:
            connection.drop()
        if self._idle:
            self._sweeper = self._loop.call_at(self._idle[0].idle_since + self._settings.idle_seconds, self._sweep)


@asynccontextmanager
async def open_pool(url: str, settings: HttpClientSettings, max_body_bytes: int) -> AsyncIterator[HttpPool]:
    """Of the server at `url`, whose path goes before that of each call; no redirects, no proxies, no decompression."""
    pool = HttpPool(url, settings, max_body_bytes)
    try:
        yield pool
    finally:
        await pool.close()
