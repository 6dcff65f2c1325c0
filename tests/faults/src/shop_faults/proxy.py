"""A TCP proxy that turns into a bad network while connections are open through it.

A network that loses packets for a while loses no bytes of a connection: they are sent again once it is back. So a black
hole here reads no more from whoever it swallows, and what waited goes on its way when it ends. Unlike a real one it
acknowledges what fits the kernel's buffers, and the SYN of a new connection: TCP keep-alive sees nothing wrong.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 64 * 1024
_BUFFERED_BYTES: Final = 8 * 1024 * 1024
"""Of one direction of one connection; what is delayed by a second passes at most so much a second."""
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
_END_AT_CLOSE: Final = struct.pack("ii", 0, 0)

Direction = Literal["both", "to_server", "to_client"]
_Way = Literal["to_server", "to_client"]
_WAYS: Final[tuple[_Way, ...]] = ("to_server", "to_client")


class _End(Exception):
    """The side that is read from has ended the connection; `reset` says how."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


@dataclass(slots=True)
class _Line:
    """What is on its way in one direction: each chunk with the time it is due, or how the sender ended."""

    chunks: asyncio.Queue[tuple[float, bytes | _End]] = field(default_factory=asyncio.Queue)
    waiting: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)


class TcpProxy:
    """Made by `open_proxy`. Each fault replaces the one before, for open connections and for those to come."""

    def __init__(self, port: int, target_port: int) -> None:
        self.port = port
        self.target_port = target_port
        self.accepted = 0
        """Connections that were ever accepted."""
        self.bytes: dict[str, int] = dict.fromkeys(_WAYS, 0)
        """Forwarded so far, by direction."""
        self._listener: asyncio.Server | None = None
        self._writers: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._flowing = {way: asyncio.Event() for way in _WAYS}
        self._seconds = 0.0
        self._resetting = False

    @property
    def open(self) -> int:
        """Connections that clients have now."""
        return len(self._writers)

    async def pass_through(self) -> None:
        """No fault."""
        await self._behave()

    async def refuse(self) -> None:
        """Nobody listens; open connections are reset."""
        await self._behave(listening=False, resetting=True)

    async def cut(self) -> None:
        """Open connections are reset, and new ones as soon as they are accepted."""
        await self._behave(resetting=True)

    async def black_hole(self, direction: Direction = "both") -> None:
        """Nothing arrives any more in this direction, and nobody is told: neither bytes nor the end of a connection."""
        await self._behave(holes=_WAYS if direction == "both" else (direction,))

    async def delay(self, seconds: float) -> None:
        """Each chunk arrives so much later, in both directions, as many at once as fit the buffer."""
        await self._behave(seconds=seconds)

    async def _behave(
        self, *, listening: bool = True, resetting: bool = False, holes: Collection[_Way] = (), seconds: float = 0
    ) -> None:
        self._resetting = resetting
        self._seconds = seconds
        for way, flowing in self._flowing.items():
            if way in holes:
                flowing.clear()
            else:
                flowing.set()
        if not listening:
            self._stop_listening()
        elif self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, HOST, self.port, limit=_CHUNK_BYTES)
            self.port = self._listener.sockets[0].getsockname()[1]
        if resetting:
            await self._reset_all()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        self._stop_listening()
        await self._reset_all()

    async def _reset_all(self) -> None:
        tasks = list(self._writers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        _set_linger(writer.get_extra_info("socket"), _RESET_AT_CLOSE)
        if self._resetting or self._listener is None:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._writers[task] = [writer]
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Also where the task was cancelled before it began. What is not closed in order is reset."""
        for writer in self._writers.pop(task):
            writer.transport.abort()
        if not task.cancelled():
            task.exception()  # a peer that went away is what a proxy sees all day

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing["to_server"].wait()  # a SYN is swallowed like any other packet
        server_reader, server_writer = await _connect(self.target_port)
        task = asyncio.current_task()
        assert task is not None
        self._writers[task].append(server_writer)
        lines = {way: _Line() for way in _WAYS}
        async with asyncio.TaskGroup() as tasks:  # the first that fails ends all, and both connections are reset
            tasks.create_task(self._read("to_server", reader, lines["to_server"]))
            tasks.create_task(self._write("to_server", lines["to_server"], server_writer))
            tasks.create_task(self._read("to_client", server_reader, lines["to_client"]))
            tasks.create_task(self._write("to_client", lines["to_client"], writer))
        for each in (writer, server_writer):
            _set_linger(each.get_extra_info("socket"), _END_AT_CLOSE)
            each.close()
            await each.wait_closed()

    async def _read(self, way: _Way, reader: asyncio.StreamReader, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._flowing[way].wait()
            try:
                chunk: bytes | _End = await reader.read(_CHUNK_BYTES) or _End(reset=False)
            except ConnectionError:
                chunk = _End(reset=True)
            line.chunks.put_nowait((loop.time() + self._seconds, chunk))
            if isinstance(chunk, _End):
                return
            line.waiting += len(chunk)
            while line.waiting >= _BUFFERED_BYTES:
                line.room.clear()
                await line.room.wait()

    async def _write(self, way: _Way, line: _Line, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await line.chunks.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._flowing[way].wait()
            if isinstance(chunk, _End):
                if chunk.reset:
                    raise chunk
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()
            self.bytes[way] += len(chunk)
            line.waiting -= len(chunk)
            line.room.set()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """With a reset as its end from the start, since the server may have accepted what is cancelled here."""
    connection = socket.socket()
    try:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        _set_linger(connection, _RESET_AT_CLOSE)
        await asyncio.get_running_loop().sock_connect(connection, (HOST, port))
        return await asyncio.open_connection(sock=connection, limit=_CHUNK_BYTES)
    except BaseException:
        connection.close()
        raise


def _set_linger(connection: socket.socket, linger: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@asynccontextmanager
async def open_proxy(port: int, target_port: int) -> AsyncIterator[TcpProxy]:
    """Listens on 127.0.0.1 at `port`, 0 for any that is free, for whatever listens there at `target_port`."""
    proxy = TcpProxy(port, target_port)
    await proxy.pass_through()
    try:
        yield proxy
    finally:
        await proxy.close()
