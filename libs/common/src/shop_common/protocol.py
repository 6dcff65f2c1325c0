"""uvicorn's HTTP protocol with what it lacks: an end to waiting for clients, and to reads for those that have gone."""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shop_common.answers import AnswerAtOnce, Listener, Reply, header_lines
from shop_common.problems import problem_response
from shop_common.request import abandon

CONNECTION: Final = "shop.connection"
"""The key of the `GuardedHttpProtocol` that a request came by, in an ASGI scope."""
_HEAD_SECONDS = 10.0
_MAX_HEAD_BYTES = 64 * 1024  # the exact limit is the middleware's; this one holds while the head is still coming
_MAX_FRAME_BYTES = 256 * 1024  # of a body's chunks and trailers, their content apart
_WRITE_SECONDS = 10.0
_WRITE_BYTES = 10 * 1024  # that a client must take in that time


class _HeadWithBody:
    """A transport as one answer uses it: its head waits for its body, for one turn of the loop at most."""

    __slots__ = ("_head", "_is_begun", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._is_begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._is_begun:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._is_begun = True
            self._head = data
            self._loop.call_soon(self.flush)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class GuardedHttpProtocol(HttpToolsProtocol):
    """Hangs up where uvicorn would wait and collect for as long as a client likes, if it can with 408, 431 or 503.

    Of connections above the application's `max_connections`, one that is idle makes room for the new one.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None
        self._listener: Listener | None = None
        self._at_once: AnswerAtOnce | None = self.app_state.get("answer_at_once")
        self._answering: asyncio.Task[None] | None = None
        self._next = b""
        self._is_last = False
        self._answered_at = 0.0
        self._defaults: tuple[Sequence[tuple[bytes, bytes]], bytes] = ((), b"")

    @property
    def is_idle(self) -> bool:
        """No request is under way; the head of one may be."""
        cycle: RequestResponseCycle | None = self.cycle
        return self._listener is None and self._answering is None and (cycle is None or cycle.response_complete)

    @property
    def is_closing(self) -> bool:
        return self.transport.is_closing()

    @property
    def is_writable(self) -> bool:
        """The client takes what is sent."""
        return not (self.flow.write_paused or self.transport.is_closing())

    def hand_over(self, listener: Listener) -> None:
        """Of an answer in chunks that the application has begun and will not end: the listener goes on with it.

        A task, its frames and all that they hold take several times the memory of a connection, which counts where
        thousands wait for what seldom comes.
        """
        if cycle := self._answered:
            cast("_HeadWithBody", cycle.transport).flush()
            cycle.disconnected = True  # so the application may return
        self._answered = self.cycle = self.scope = self.headers = self.parser = None  # type: ignore[assignment]
        self.pipeline.clear()
        if self.transport.is_closing():
            listener.on_closed()
        else:
            self._listener = listener
            self.flow.resume_reading()  # of what nobody will answer; left unread, it would end the stream by a reset

    def send_chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end_chunks(self) -> None:
        self.transport.write(b"0\r\n\r\n")
        self.transport.close()
        self._watch_writing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._watch_head()
        if len(self.connections) > self.app_state.get("max_connections", math.inf):
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self._forget_writing()
        cycle: RequestResponseCycle | None = self.cycle
        super().connection_lost(exc)
        if self._listener is not None:
            self._listener.on_closed()
        if self._answering is not None:
            self._answering.cancel()
        if cycle is not None and not cycle.response_complete:
            abandon(cast("Scope", cycle.scope))

    def data_received(self, data: bytes) -> None:
        if self._listener is not None:
            return  # what follows is not answered any more
        if self._answering is not None:
            self._next += data
            self.flow.pause_reading()
            return
        if self._at_once and self._is_between_requests and (answer := self._at_once(data)):
            self._take(answer)
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > (_MAX_HEAD_BYTES if self._in_head else _MAX_FRAME_BYTES):
            self._hang_up(431, "headers_too_large", "Headers too large", "The request's head is too large")
        elif self._in_head and self._head_bytes and self._head_timer is None:
            self._watch_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # uvicorn would add a body's trailers to the headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():  # or the little that is left might be left for good
            self._forget_writing()
            if self._listener is not None:
                self._listener.on_writable()

    def timeout_keep_alive_handler(self) -> None:
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if self._answering is not None:
            left = self.timeout_keep_alive
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()
            self._watch_writing()

    def shutdown(self) -> None:
        if self._listener is not None:
            self._listener.on_shutdown()
        elif self._answering is not None:
            self._is_last = True
        else:
            super().shutdown()
            self._watch_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = cast("asyncio.Transport", _HeadWithBody(self.transport, self.loop))
        cycle.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key] # an extension
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_between_requests(self) -> bool:
        """Nothing is under way or half received, so the parser need not see a request that is answered without it."""
        return self._in_head and not self._head_bytes and self.is_idle and self.is_writable

    def _take(self, answer: Reply | Coroutine[Any, Any, Reply]) -> None:
        if self._head_timer is not None:
            self._forget_head()
        if isinstance(answer, tuple):
            self._send_at_once(*answer)
        else:
            self._answering = self.loop.create_task(self._send_later(answer))
            self.tasks.add(self._answering)

    async def _send_later(self, answer: Coroutine[Any, Any, Reply]) -> None:
        reply = None
        try:
            reply = await answer
        finally:
            self.tasks.discard(cast("asyncio.Task[None]", self._answering))
            self._answering = None
            if reply is None:
                self.transport.close()
        if self.transport.is_closing():
            return
        self._send_at_once(*reply)
        if data := self._next:
            self._next = b""
            self.flow.resume_reading()
            self.data_received(data)

    def _send_at_once(self, head: bytes, body: bytes) -> None:
        defaults = self.server_state.default_headers  # another list each second
        if self._defaults[0] is not defaults:
            self._defaults = defaults, header_lines(defaults)
        self.transport.write(b"%b%b\r\n%b" % (head, self._defaults[1], body))
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()  # instead of a timer anew for each answer
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_handler()
        if self._is_last or CLOSE_HEADER in defaults:
            self.transport.close()
            self._watch_writing()

    def _watch_writing(self, before: int | None = None) -> None:
        """Cut a connection whose client does not take what is written: closing it would wait for that without end."""
        left = self.transport.get_write_buffer_size()
        if before is not None and left > before - _WRITE_BYTES:
            self.transport.abort()
        elif left and (before is not None or self._write_timer is None):
            self._write_timer = self.loop.call_later(_WRITE_SECONDS, self._watch_writing, left)
        else:
            self._write_timer = None

    def _forget_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _make_room(self) -> None:
        others = (each for each in self.connections if isinstance(each, GuardedHttpProtocol) and each is not self)
        if idle := next((each for each in others if each.is_idle and not each.transport.is_closing()), None):
            idle.shutdown()
        else:
            self._hang_up(503, "unavailable", "Temporarily unavailable", "Too many connections are open")

    def send_400_response(self, msg: str) -> None:
        """What uvicorn would say in plain text."""
        self._hang_up(400, "bad_request", "Bad request", msg)

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_is_late)

    def _forget_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._hang_up(408, "head_timeout", "Head not received in time", "The request's head did not arrive in time")

    def _hang_up(self, status: int, code: str, title: str, detail: str) -> None:
        """Say why, unless an answer to an earlier request is on its way, and close."""
        self._forget_head()
        if self.transport.is_closing():
            return
        if self.is_idle:
            response = problem_response(status, code, title, detail, headers={"Connection": "close"})
            head = header_lines(response.raw_headers)
            self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, title.encode(), head))
            self.transport.write(response.body)
        self.transport.close()
        self._watch_writing()
