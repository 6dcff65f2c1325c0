"""HTTP/1.1 calls to one server over a bounded pool of connections, answered by callbacks on the loop.

What a fan-out costs is decided here: a call is one write and one callback, without a task, a lock or another thread.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httptools

from shop_common.settings import HttpClientSettings

_MAX_FRAMING_BYTES: Final = 64 * 1024
_HTTPS_PORT, _HTTP_PORT = 443, 80
_OK: Final = 200


class Response(NamedTuple):
    """A whole answer, whatever its status."""

    status: int
    headers: Mapping[bytes, bytes]
    """Names in lower case; of one that was sent again, the first."""
    body: bytes


class CallFailed(Exception):
    """A call without an answer."""


class PoolBusy(CallFailed):
    """Every connection is in use, and none became free in time; nothing was sent."""


class ConnectFailed(CallFailed):
    """No connection; nothing was sent."""


class ConnectionBroken(CallFailed):
    """The connection ended before the answer was whole."""


class CallLate(CallFailed):
    """No answer in the time there was."""


class BadResponse(CallFailed):
    """An answer that breaks HTTP or is too large; its text says which."""


Done = Callable[[Response | CallFailed], None]
"""Called once, by the loop, but not for a call that was cancelled; it may not raise."""


class HttpCall:
    """One call under way."""

    __slots__ = ("_done", "_pool", "connection", "ends", "request", "timer")

    def __init__(self, pool: "HttpPool", request: bytes, ends: float, done: Done) -> None:
        self._pool = pool
        self.request = request
        self.ends = ends
        """On the loop's clock."""
        self.timer: asyncio.Handle | None = None
        self.connection: _Connection | None = None
        self._done: Done | None = done

    def finish(self, result: Response | CallFailed) -> None:
        done = self._done
        if done is not None:
            self._leave()
            done(result)

    def cancel(self) -> None:
        """Give it up, and the connection that the answer would come by."""
        if self._done is not None:
            self._leave()
            if self.connection is None:
                self._pool.leave_queue(self)
            else:
                self.connection.drop()

    def on_late(self) -> None:
        connection = self.connection
        self.finish(CallLate())
        if connection is not None:
            connection.drop()

    def _leave(self) -> None:
        self._done = None
        if self.timer is not None:
            self.timer.cancel()


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
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
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
        if text.count("\n") >= len(lines):
            raise ValueError("a line feed inside a line")
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

    def release(self, connection: "_Connection") -> None:
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

    def forget(self, connection: "_Connection") -> None:
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
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
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


class _Connection(asyncio.Protocol):
    """One connection: one call at a time. httptools calls the `on_` methods without arguments and those of a header."""

    transport: asyncio.Transport

    def __init__(self, pool: HttpPool) -> None:
        self.idle_since = 0.0
        self._pool = pool
        self._headers: dict[bytes, bytes] = {}
        self.on_header = self._headers.setdefault
        """Names as they came."""
        self._parser = httptools.HttpResponseParser(self)
        self._call: HttpCall | None = None
        self._begin_message()

    def _begin_message(self) -> None:
        self._headers.clear()
        self._fields: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._framing_bytes = self._body_bytes = 0
        self._in_head = True
        self._is_complete = self._is_too_large = self._stays = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # of a stream

    def begin(self, call: HttpCall) -> None:
        self._call = call
        call.connection = self
        self.transport.write(call.request)

    def drop(self) -> None:
        """Cut it."""
        self._pool.forget(self)
        self.transport.abort()

    def fail(self, failure: CallFailed) -> None:
        """Cut it, and tell whoever waits for its answer."""
        call, self._call = self._call, None
        self.drop()
        if call is not None:
            call.finish(failure)

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.drop()  # nobody asked
            return
        self._framing_bytes += len(data)  # until something of the body comes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._is_complete:
                self.fail(BadResponse("its answer breaks HTTP"))
                return
            self._stays = False
        if self._is_too_large:
            self.fail(BadResponse("its answer is too large"))
        elif self._is_complete:
            self._finish()
        elif self._framing_bytes > _MAX_FRAMING_BYTES:
            self.fail(BadResponse("the head of its answer, or what follows its body, is too large"))

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("more than one answer")  # which the parser stops at

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stays = self._parser.should_keep_alive()
        fields: dict[bytes, bytes] = {}
        for name, value in self._headers.items():
            fields.setdefault(name.lower(), value)
        self._fields = fields
        length = fields.get(b"content-length")
        self._is_too_large = length is not None and int(length) > self._pool.max_body_bytes

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self._pool.max_body_bytes:
            self._is_too_large = True
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < _OK:  # more than an interim answer is to come
            self._begin_message()
        else:
            self._is_complete = True

    def eof_received(self) -> None:
        if self._call is not None and self._ends_with_connection():
            self._finish()

    def connection_lost(self, _: Exception | None) -> None:
        self.fail(ConnectionBroken())

    def _ends_with_connection(self) -> bool:
        framed = b"content-length" in self._fields or b"transfer-encoding" in self._fields
        return not (self._in_head or framed)

    def _finish(self) -> None:
        call, self._call = self._call, None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        response = Response(self._parser.get_status_code(), self._fields, body)
        if not self._stays or self.transport.is_closing():
            self.drop()
        else:
            self._begin_message()
            self._pool.release(self)
        if call is not None:
            call.finish(response)


@asynccontextmanager
async def open_pool(url: str, settings: HttpClientSettings, max_body_bytes: int) -> AsyncIterator[HttpPool]:
    """Of the server at `url`, whose path goes before that of each call; no redirects, no proxies, no decompression."""
    pool = HttpPool(url, settings, max_body_bytes)
    try:
        yield pool
    finally:
        await pool.close()
