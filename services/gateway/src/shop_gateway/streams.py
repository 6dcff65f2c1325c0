"""Server-sent events: each user is told that their dashboard has changed, when nothing older is answered any more.

What is told is that something changed, never what: so what comes while a client is slow is told in one, and whoever
comes back is told once if anything may have been missed. Statistics follow an order by way of Kafka, so their owner is
asked until they do.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import Final

from prometheus_client import Counter, Gauge

from shop_common.answers import Listener
from shop_common.events import orders, users
from shop_common.protocol import GuardedHttpProtocol
from shop_common.tokens import Principal
from shop_gateway.changes import Change, RecentChanges
from shop_gateway.errors import TooManyStreams
from shop_gateway.settings import StreamSettings

STREAMS = Gauge("shop_gateway_streams", "Clients that listen", multiprocess_mode="livesum")
STREAMS_ENDED = Counter("shop_gateway_streams_ended_total", "Streams that ended", ["reason"])

_RETRY_MS: Final = 2000
_SECTIONS: Final = ("user", "orders", "stats")
_CLIENT_LEFT: Final = "client_left"
_NOTHING_HEARD: Final = "-1.-1"
_PENDING: Final = "+"
"""At the end of an id: statistics are still to come."""
_PAUSES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
"""Seconds between two questions for statistics; from then on it is the last."""
HasStatistics = Callable[[str, str], Awaitable[bool]]
"""Whether a user's statistics show every order heard of; asked with the user's id and credentials."""


class Stream(Listener):
    """One client's. Nothing queues up: what is to be told is a set."""

    __slots__ = ("_changed", "_connection", "_forget", "_is_begun", "_position", "credentials", "expiry", "reason")

    def __init__(self, connection: GuardedHttpProtocol, credentials: str, forget: Callable[["Stream"], None]) -> None:
        self.credentials = credentials
        self.expiry: asyncio.TimerHandle | None = None
        self.reason = _CLIENT_LEFT
        self._connection = connection
        self._forget = forget
        self._changed: dict[str, None] = {}
        self._position = ""
        self._is_begun = False

    def begin(self) -> None:
        """The greeting has been sent."""
        self._connection.hand_over(self)
        self._is_begun = True
        if self.reason == _CLIENT_LEFT:
            self.on_writable()
        else:
            self.end(self.reason)

    def change(self, sections: Sequence[str], position: str) -> None:
        self._changed |= dict.fromkeys(sections)
        self._position = position
        self.on_writable()

    def beat(self) -> None:
        if self._is_begun and self._connection.is_writable:
            self._connection.send_chunk(b":\n\n")

    def end(self, reason: str) -> None:
        if self._connection.is_closing:
            return
        self.reason = reason
        if self._is_begun:
            self._connection.send_chunk(self._news() + _message("end", {"reason": reason}))
            self._connection.end_chunks()

    def on_writable(self) -> None:
        if self._changed and self._is_begun and self._connection.is_writable:
            self._connection.send_chunk(self._news())

    def on_shutdown(self) -> None:
        self.end("shutdown")

    def on_closed(self) -> None:
        self._forget(self)

    def _news(self) -> bytes:
        changed, self._changed = self._changed, {}
        return _message("dashboard_changed", {"sections": [*changed]}, self._position) if changed else b""


class Streams:
    """All of this process."""

    def __init__(self, settings: StreamSettings, recent: RecentChanges, has_statistics: HasStatistics) -> None:
        self._settings = settings
        self._recent = recent
        self._has_statistics = has_statistics
        self._following: dict[str, asyncio.Task[None]] = {}
        """Users whose statistics are still to come."""
        self._of: dict[str, set[Stream]] = {}
        self._count = 0

    def open(
        self, connection: GuardedHttpProtocol, principal: Principal, credentials: str, last_event_id: str
    ) -> tuple[Stream, bytes]:
        """The stream, and what is to be sent before it begins; it ends with the token.

        TooManyStreams where there is no room.
        """
        user_id = principal.user_id
        streams = self._of.setdefault(user_id, set())
        if len(streams) >= self._settings.per_user or self._count >= self._settings.per_process:
            if not streams:
                del self._of[user_id]
            raise TooManyStreams("Too many streams are open; close one, or try again later")
        stream = Stream(connection, credentials, partial(self._forget, user_id))
        seconds = max(0.0, principal.expires_at - time.time())
        stream.expiry = asyncio.get_running_loop().call_later(seconds, stream.end, "token_expired")
        streams.add(stream)
        self._count += 1
        STREAMS.set(self._count)
        if orders.TOPIC in self._recent.offsets(user_id):  # which statistics may not show yet
            self._follow(user_id)
        return stream, self._greeting(user_id, last_event_id)

    def _forget(self, user_id: str, stream: Stream) -> None:
        if stream.expiry is not None:
            stream.expiry.cancel()
        streams = self._of[user_id]
        streams.remove(stream)
        if not streams:
            del self._of[user_id]
        self._count -= 1
        STREAMS.set(self._count)
        STREAMS_ENDED.labels(stream.reason).inc()

    def _greeting(self, user_id: str, last_event_id: str) -> bytes:
        """When to come back; and `dashboard_changed` at once, unless nothing can have changed since the last event."""
        position = self._position(user_id)
        last, current = (each.removesuffix(_PENDING) for each in (last_event_id, position))
        missed = bool(last) and (last != current or current == _NOTHING_HEARD)
        changed = _message("dashboard_changed", {"sections": _SECTIONS}, position)
        first = changed if missed else _message("ready", {}, position)
        return b"retry: %d\n%b" % (_RETRY_MS, first)

    def _position(self, user_id: str) -> str:
        offsets = self._recent.offsets(user_id)
        pending = _PENDING if user_id in self._following else ""
        return f"{offsets.get(users.TOPIC, -1)}.{offsets.get(orders.TOPIC, -1)}{pending}"

    def publish(self, change: Change) -> None:
        if change.user_id not in self._of:
            return
        if change.is_order:
            self._follow(change.user_id)
        self._tell(change.user_id, ("orders",) if change.is_order else ("user",))
        if change.deactivated:
            for stream in self._of[change.user_id]:
                stream.end("revoked")

    def publish_unknown(self) -> None:
        """Anything may have changed."""
        for user_id in self._of:
            self._tell(user_id, _SECTIONS)

    def _tell(self, user_id: str, sections: Sequence[str]) -> None:
        position = self._position(user_id)
        for stream in self._of.get(user_id, ()):
            stream.change(sections, position)

    def _follow(self, user_id: str) -> None:
        if user_id not in self._following:
            self._following[user_id] = asyncio.create_task(self._follow_statistics(user_id))

    async def _follow_statistics(self, user_id: str) -> None:
        """No await between the last look and the word of it: an order heard of later is followed anew."""
        try:
            for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
                listening = self._of.get(user_id)
                if not listening or await self._has_statistics(user_id, next(iter(listening)).credentials):
                    break
                await asyncio.sleep(pause)
        finally:
            del self._following[user_id]
        self._tell(user_id, ("stats",))

    async def close(self) -> None:
        if following := [*self._following.values()]:
            for task in following:
                task.cancel()
            await asyncio.wait(following)

    async def keep_beating(self) -> None:
        """Let intermediaries see that each stream lives."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            for streams in [*self._of.values()]:
                for stream in streams:
                    stream.beat()
                await asyncio.sleep(0)


def _message(event: str, data: Mapping[str, object], position: str = "") -> bytes:
    identity = f"id: {position}\n" if position else ""
    return f"event: {event}\n{identity}data: {json.dumps(data)}\n\n".encode()


@asynccontextmanager
async def open_streams(
    settings: StreamSettings, recent: RecentChanges, has_statistics: HasStatistics
) -> AsyncIterator[Streams]:
    streams = Streams(settings, recent, has_statistics)
    beating = asyncio.create_task(streams.keep_beating())
    try:
        yield streams
    finally:
        beating.cancel()
        await asyncio.wait([beating])
        await streams.close()
