"""One HTTP/1.1 connection to a server: one call at a time, its answer read by httptools."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import httptools

_MAX_FRAMING_BYTES: Final = 64 * 1024
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


class Pool(Protocol):
    """Whose a connection is."""

    max_body_bytes: int

    def release(self, connection: "Connection") -> None:
        """It has nothing to do."""

    def forget(self, connection: "Connection") -> None:
        """It is gone, or as good as."""

    def leave_queue(self, call: "HttpCall") -> None:
        """It needs no connection any more."""


class HttpCall:
    """One call under way."""

    __slots__ = ("_done", "_pool", "connection", "ends", "request", "timer")

    def __init__(self, pool: Pool, request: bytes, ends: float, done: Done) -> None:
        self._pool = pool
        self.request = request
        self.ends = ends
        """On the loop's clock."""
        self.timer: asyncio.Handle | None = None
        self.connection: Connection | None = None
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


class Connection(asyncio.Protocol):
    """One connection: one call at a time. httptools calls the `on_` methods without arguments and those of a header."""

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
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
        self._fields = {name.lower(): value for name, value in reversed(self._headers.items())}
        length = self._fields.get(b"content-length")
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
