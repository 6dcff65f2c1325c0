"""The proxy of the fault suite does each thing it promises, between real sockets."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from shop_faults.proxy import HOST, TcpProxy, open_proxy

PATIENCE = 30.0
MOMENT = 0.2  # long enough on loopback for what is not held back to arrive


@dataclass(slots=True)
class Line:
    """A client's connection and the server's end of it."""

    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]

    async def ask(self, text: bytes) -> None:
        """There and back."""
        await self.tell_server(text)
        self.server[1].write(text)
        assert await _exactly(self.client[0], len(text)) == text

    async def tell_server(self, text: bytes) -> None:
        self.client[1].write(text)
        assert await _exactly(self.server[0], len(text)) == text


@dataclass(slots=True)
class Network:
    proxy: TcpProxy
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    stack: contextlib.AsyncExitStack

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.proxy.port)
        self.stack.push_async_callback(_end, writer)
        return reader, writer

    async def open_line(self) -> Line:
        client = await self.connect()
        async with asyncio.timeout(PATIENCE):
            return Line(client, await self.arrived.get())


@pytest.fixture(name="network")
async def _network() -> AsyncIterator[Network]:
    async with open_network() as network:
        yield network


@asynccontextmanager
async def open_network() -> AsyncIterator[Network]:
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    async with contextlib.AsyncExitStack() as stack:

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.push_async_callback(_end, writer)
            arrived.put_nowait((reader, writer))

        server = await asyncio.start_server(accepted, HOST, 0)
        stack.callback(server.close)
        proxy = await stack.enter_async_context(open_proxy(0, server.sockets[0].getsockname()[1]))
        yield Network(proxy, arrived, stack)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _exactly(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.readexactly(count)


async def _assert_reset(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def _assert_silent(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), MOMENT)


async def _until_idle(proxy: TcpProxy) -> None:
    async with asyncio.timeout(PATIENCE):
        while proxy.open:  # noqa: ASYNC110 - the proxy tells nobody of its own connections
            await asyncio.sleep(0.01)


async def test_bytes_pass_both_ways_and_are_counted(network: Network) -> None:
    line = await network.open_line()
    await line.ask(b"x" * 1_000_000)
    assert (network.proxy.accepted, network.proxy.open) == (1, 1)
    assert network.proxy.bytes == {"to_server": 1_000_000, "to_client": 1_000_000}


async def test_an_end_is_passed_on_while_the_other_direction_stays_open(network: Network) -> None:
    line = await network.open_line()
    line.client[1].write_eof()
    assert await line.server[0].read() == b""
    line.server[1].write(b"answer")
    line.server[1].close()
    assert await line.client[0].read() == b"answer"
    await _until_idle(network.proxy)


async def test_a_reset_is_passed_on(network: Network) -> None:
    line = await network.open_line()
    await line.ask(b"x")
    line.client[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.client[1].transport.abort()
    await _assert_reset(line.server[0])
    await _until_idle(network.proxy)


async def test_a_server_that_is_away_resets_the_client(network: Network) -> None:
    network.proxy.target_port = 1
    reader, _ = await network.connect()
    await _assert_reset(reader)


async def test_refusing_resets_what_is_open_and_takes_nothing_new(network: Network) -> None:
    line = await network.open_line()
    await network.proxy.refuse()
    await _assert_reset(line.client[0])
    await _assert_reset(line.server[0])
    with pytest.raises(ConnectionRefusedError):
        await network.connect()
    port = network.proxy.port
    await network.proxy.pass_through()
    assert network.proxy.port == port
    await (await network.open_line()).ask(b"back")


async def test_a_cut_resets_what_is_open_and_what_comes(network: Network) -> None:
    line = await network.open_line()
    await network.proxy.cut()
    await _assert_reset(line.client[0])
    await _assert_reset(line.server[0])
    reader, _ = await network.connect()
    await _assert_reset(reader)
    assert network.arrived.empty()
    await network.proxy.pass_through()
    await (await network.open_line()).ask(b"back")


async def test_a_black_hole_swallows_bytes_ends_and_newcomers_until_it_is_gone(network: Network) -> None:
    line, ended = await network.open_line(), await network.open_line()
    await network.proxy.black_hole()
    line.client[1].write(b"question")
    line.server[1].write(b"answer")
    ended.client[1].close()
    _, newcomer = await network.connect()
    newcomer.write(b"hello")
    for reader in (line.client[0], line.server[0], ended.server[0]):
        await _assert_silent(reader)
    assert network.arrived.empty()
    await network.proxy.pass_through()
    assert await _exactly(line.server[0], 8) == b"question"
    assert await _exactly(line.client[0], 6) == b"answer"
    assert await ended.server[0].read() == b""
    async with asyncio.timeout(PATIENCE):
        reader, _ = await network.arrived.get()
    assert await _exactly(reader, 5) == b"hello"


async def test_a_black_hole_of_one_direction_lets_the_other_pass(network: Network) -> None:
    line = await network.open_line()
    await network.proxy.black_hole("to_client")
    await line.tell_server(b"question")
    line.server[1].write(b"answer")
    await _assert_silent(line.client[0])
    await network.proxy.black_hole("to_server")
    assert await _exactly(line.client[0], 6) == b"answer"
    line.client[1].write(b"question")
    await _assert_silent(line.server[0])


async def test_connections_in_a_black_hole_are_reset_by_a_cut(network: Network) -> None:
    line = await network.open_line()
    await network.proxy.black_hole()
    line.client[1].write(b"question")
    reader, _ = await network.connect()
    await _assert_silent(reader)
    await network.proxy.cut()
    await _assert_reset(line.server[0])
    await _assert_reset(reader)


async def test_a_delay_holds_back_each_chunk_but_not_the_next_ones(network: Network) -> None:
    line = await network.open_line()
    seconds, chunks = 0.3, 20
    await network.proxy.delay(seconds)
    started = time.monotonic()
    for number in range(chunks):
        line.client[1].write(bytes([number]) * 1000)
        await asyncio.sleep(0.02)
    sent = time.monotonic() - started
    received = await _exactly(line.server[0], chunks * 1000)
    took = time.monotonic() - started
    assert received == b"".join(bytes([number]) * 1000 for number in range(chunks))
    assert took >= seconds
    assert took < sent + chunks * seconds / 2  # one after the other they would need chunks * seconds


async def test_more_than_the_buffer_passes_a_delay_whole(network: Network) -> None:
    line = await network.open_line()
    await network.proxy.delay(0.1)
    size = 20 * 1024 * 1024
    line.client[1].write(b"x" * size)
    assert await _exactly_many(line.server[0], size) == size
    assert network.proxy.bytes["to_server"] == size


async def _exactly_many(reader: asyncio.StreamReader, size: int) -> int:
    received = 0
    async with asyncio.timeout(PATIENCE):
        while received < size and (chunk := await reader.read(1024 * 1024)):
            received += len(chunk)
    return received


async def test_nothing_is_left_when_it_closes() -> None:
    before = asyncio.all_tasks()
    async with open_network() as network:
        line = await network.open_line()
        await line.ask(b"x")
        await network.connect()
        await network.proxy.black_hole()
        await network.proxy.close()
        await _assert_reset(line.client[0])
        assert network.proxy.open == 0
        assert asyncio.all_tasks() - before == set()
