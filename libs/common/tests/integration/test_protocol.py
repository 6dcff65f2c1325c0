"""Slow and oversized request heads, over real sockets: uvicorn alone would wait and collect without end."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter, Request

from shop_common import protocol
from shop_common.protocol import GuardedHttpProtocol

Connect = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]
GET = b"GET /number HTTP/1.1\r\nHost: test\r\n\r\n"
router = APIRouter()
held = asyncio.Event()


@router.get("/number")
async def number() -> int:
    return 7


@router.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


@router.get("/held")
async def hold() -> str:
    await held.wait()
    return "held"


@pytest.fixture
async def connect(build_app: Any, free_port: Callable[[], int]) -> AsyncIterator[Connect]:
    held.clear()
    port = free_port()
    config = uvicorn.Config(
        build_app(router, max_body_bytes=1024),
        port=port,
        http=GuardedHttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    writers = []

    async def open_connection() -> tuple[StreamReader, StreamWriter]:
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield open_connection
    for writer in writers:
        writer.close()
    server.should_exit = True
    await serving


async def answer(reader: StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body of the next answer on a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), head, await reader.readexactly(length)


async def test_ordinary_requests_share_a_connection(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(3):
        writer.write(GET)
        status, _, body = await answer(reader)
        assert (status, body) == (200, b"7")
    writer.write(GET * 2)
    assert [(await answer(reader))[2], (await answer(reader))[2]] == [b"7", b"7"]


@pytest.mark.parametrize("begun", [b"", b"GET /num", b"\r\n", GET[:-2]])
async def test_a_head_that_does_not_come_to_an_end_is_408(
    connect: Connect, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    reader, writer = await connect()
    writer.write(begun)
    status, head, body = await answer(reader)
    assert status == 408
    assert b"application/problem+json" in head
    assert b'"code":"head_timeout"' in body
    assert await reader.read() == b""


async def test_the_next_head_on_a_connection_has_its_time_too(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await connect()
    writer.write(GET)
    await answer(reader)
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    writer.write(b"GET /numb")
    assert (await answer(reader))[0] == 408
    assert await reader.read() == b""


async def test_a_trickle_does_not_extend_the_time(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.2)
    reader, writer = await connect()

    writer.write(b"GET /")
    answered = asyncio.create_task(reader.read(12))
    while not answered.done():
        writer.write(b"x")
        await asyncio.sleep(0.02)
    assert answered.result() == b"HTTP/1.1 408"


async def test_a_head_is_not_collected_without_end(connect: Connect) -> None:
    reader, writer = await connect()
    line = b"GET /number HTTP/1.1\r\nX-Pad: "
    writer.write(line + b"x" * (protocol._MAX_HEAD_BYTES - len(line)))
    await writer.drain()
    writer.write(b"x")
    status, _, body = await answer(reader)
    assert status == 431
    assert b'"code":"headers_too_large"' in body


@pytest.mark.parametrize(
    "nonsense", [b"BREW\x00\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n"]
)
async def test_what_is_no_http_is_a_400_like_any_other(connect: Connect, nonsense: bytes) -> None:
    reader, writer = await connect()
    writer.write(nonsense)
    status, head, body = await answer(reader)
    assert status == 400
    assert b"application/problem+json" in head
    assert b'"code":"bad_request"' in body
    assert await reader.read() == b""


async def test_a_long_head_that_is_complete_gets_the_middlewares_answer(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(GET[:-2] + b"X-Pad: " + b"x" * 20_000 + b"\r\n\r\n")
    status, head, body = await answer(reader)
    assert status == 431
    assert b"x-request-id" in head
    assert b"16384" in body


async def test_a_body_is_no_head(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.1)
    monkeypatch.setattr(protocol, "_MAX_HEAD_BYTES", 100)
    reader, writer = await connect()
    writer.write(b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(10):
        await asyncio.sleep(0.02)
        writer.write(b"x" * 100)
    assert (await answer(reader))[2] == b"1000"


async def test_an_answer_under_way_is_not_mixed_with_a_refusal(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await connect()
    writer.write(b"GET /held HTTP/1.1\r\nHost: test\r\n\r\n")
    await asyncio.sleep(0.05)
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.05)
    writer.write(b"GET /numb")
    assert await reader.read() == b""


async def test_the_rest_of_a_refused_body_is_not_read(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: 9999999\r\n\r\n")
    status, head, body = await answer(reader)
    assert (status, b"connection: close" in head.lower()) == (413, True)
    assert b'"code":"payload_too_large"' in body
    assert await reader.read() == b""


async def test_a_refusal_on_a_closing_connection_is_silent() -> None:
    class Closing:
        def is_closing(self) -> bool:
            return True

    config = uvicorn.Config(lambda: None, log_config=None)
    connection = GuardedHttpProtocol(config, uvicorn.server.ServerState(), {})
    connection.transport = Closing()  # type: ignore[assignment] # all that is asked of it
    connection._head_is_late()
