"""What stands before several processes of one service: a load balancer that sends new connections to the ready."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Final

from shop_cluster.ports import HOST
from shop_faults.processes import Failure

_LOOK_SECONDS: Final = 0.2
_CHUNK_BYTES: Final = 64 * 1024


class _Balancer:
    def __init__(self, backends: Mapping[int, Failure]) -> None:
        self._backends = backends
        self._ready = [*backends]
        self._turns = count()
        self._connections: set[asyncio.Task[None]] = set()

    async def look(self) -> None:
        """Ask each backend again and again whether it is ready; one that is not gets no new connections."""
        while True:
            ports = [*self._backends]
            failures = await asyncio.gather(*(self._backends[port]() for port in ports))
            self._ready = [port for port, failure in zip(ports, failures, strict=True) if failure is None] or ports
            await asyncio.sleep(_LOOK_SECONDS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        # Only close() cancels; asyncio would log a connection that ends so as an error.
        with suppress(OSError, asyncio.CancelledError):
            port = self._ready[next(self._turns) % len(self._ready)]
            to_reader, to_writer = await asyncio.open_connection(HOST, port)
            await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
        writer.close()

    async def close(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the sender ends; then the receiver is told."""
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def open_balancer(port: int, backends: Mapping[int, Failure]) -> AsyncIterator[None]:
    """Listens on `port` for the backends on these ports, each with what says whether it is ready."""
    balancer = _Balancer(backends)
    server = await asyncio.start_server(balancer.serve, HOST, port)
    looking = asyncio.create_task(balancer.look())
    try:
        yield
    finally:
        looking.cancel()
        server.close()
        await asyncio.gather(looking, balancer.close(), return_exceptions=True)
