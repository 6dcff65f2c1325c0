"""uvicorn's HTTP protocol with what it lacks: an end to waiting for a request's head, and a limit on its size."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shop_common.problems import problem_response

_HEAD_SECONDS = 10.0
_MAX_HEAD_BYTES = 64 * 1024  # the exact limit is the middleware's; this one holds while the head is still coming


class GuardedHttpProtocol(HttpToolsProtocol):
    """Answers 408 or 431 and hangs up where uvicorn would wait, and collect, for as long as a client likes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._watch_head()
        super().data_received(data)
        if self._in_head and self._head_bytes > _MAX_HEAD_BYTES:
            self._hang_up(431, "headers_too_large", "Headers too large", "The request's head is too large")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

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
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            response = problem_response(status, code, title, detail, headers={"Connection": "close"})
            head = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
            self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, title.encode(), head))
            self.transport.write(response.body)
        self.transport.close()
