"""Clients that hang up do so where they are asked to, and the others get their answers."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from shop_faults.hangups import POINTS, Exchange, Point, exchange, http_request, send_all

REQUEST = http_request("POST", "/v1/orders", {"Idempotency-Key": "a"}, b'{"items": []}')
HEAD, BODY = REQUEST.split(b"\r\n\r\n")
ANSWER = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Server:
    port: int = 0
    answering: bool = True
    received: list[bytes] = field(default_factory=list)
    """By connection, once its client has hung up or was answered."""
    open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        data = b""
        with contextlib.suppress(ConnectionError):
            while len(data) < len(REQUEST) and (chunk := await reader.read(1024)):
                data += chunk
            if data == REQUEST:
                writer.write(ANSWER if self.answering else ANSWER[:12])
                await writer.drain()
                if not self.answering:
                    await reader.read()
        self.received.append(data)
        self.open -= 1
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    listener.close()
    await _until_all_left(server)


async def _until_all_left(server: Server) -> None:
    async with asyncio.timeout(30):
        while server.open:  # noqa: ASYNC110 - the server of a test, which tells nobody
            await asyncio.sleep(0.01)


def create_numbers(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - to be repeatable, not secret


def test_a_request_is_whole() -> None:
    lines = HEAD.decode().split("\r\n")
    assert lines[0] == "POST /v1/orders HTTP/1.1"
    assert {"Host: 127.0.0.1", "Connection: close", "Content-Length: 13", "Idempotency-Key: a"} <= set(lines)
    assert BODY == b'{"items": []}'


async def test_what_is_not_dropped_is_answered(server: Server) -> None:
    assert await exchange(server.port, REQUEST, None, create_numbers(1)) == 201
    await _until_all_left(server)
    assert server.received == [REQUEST]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("point", POINTS)
async def test_what_is_dropped_is_dropped_there(server: Server, point: Point, seed: int) -> None:
    server.answering = point != "answer"
    assert await exchange(server.port, REQUEST, point, create_numbers(seed)) is None
    async with asyncio.timeout(30):
        while not server.received:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
    [received] = server.received
    assert REQUEST.startswith(received)
    if point == "head":
        assert len(received) < len(HEAD) + 4
    elif point == "body":
        assert len(received) < len(REQUEST)
    else:
        assert received == REQUEST


async def test_a_server_that_is_away_is_no_error() -> None:
    assert await exchange(1, REQUEST, None, create_numbers(1)) is None


async def test_a_share_is_dropped_the_same_with_the_same_seed(server: Server) -> None:
    results = await send_all(server.port, [REQUEST] * 200, share_dropped=0.3, seed=5, at_once=20)
    points = Counter(result.dropped_at for result in results)
    assert set(points) == {None, *POINTS}
    assert 40 < 200 - points[None] < 80
    assert {result.status for result in results if result.dropped_at is None} == {201}
    assert all(result.status is None for result in results if result.dropped_at)
    again = await send_all(server.port, [REQUEST] * 200, share_dropped=0.3, seed=5)
    assert [result.dropped_at for result in again] == [result.dropped_at for result in results]


async def test_none_is_dropped_where_none_shall_be(server: Server) -> None:
    assert await send_all(server.port, [REQUEST] * 3, share_dropped=0, seed=1, at_once=2) == [Exchange(None, 201)] * 3
