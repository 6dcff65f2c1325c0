"""Slow and oversized request heads, over real sockets: uvicorn alone would wait and collect without end."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from shop_common import protocol
from shop_common.protocol import GuardedHttpProtocol

Connect = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]
GET = b"GET /number HTTP/1.1\r\nHost: test\r\n\r\n"
router = APIRouter()


@router.get("/number")
async def number() -> int:
    return 7


@router.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


@router.get("/large")
async def large(size: int) -> Response:
    return Response(b"x" * size)


@router.get("/stream")
async def stream(size: int) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(size // 100_000):
            yield b"x" * 100_000

    return StreamingResponse(chunks(), headers={"Content-Length": str(size)})


@router.get("/held")
async def hold(request: Request) -> str:
    await request.app.state.release.wait()
    return "held"


@pytest.fixture
def release() -> asyncio.Event:
    """Set: what is held is answered."""
    return asyncio.Event()


@pytest.fixture
def servers() -> list[uvicorn.Server]:
    return []


@pytest.fixture
def connections(servers: list[uvicorn.Server]) -> Callable[..., set[Any]]:
    """Those the server has; optionally, how many it may have from now on."""

    def look(limit: int | None = None) -> set[Any]:
        [server] = servers
        if limit is not None:
            server.lifespan.state["max_connections"] = limit
        return set(server.server_state.connections)

    return look


@pytest.fixture
async def connect(
    build_app: Any, free_port: Callable[[], int], servers: list[uvicorn.Server], release: asyncio.Event
) -> AsyncIterator[Connect]:
    port = free_port()
    app = build_app(router, max_body_bytes=1024)
    app.state.release = release
    config = uvicorn.Config(
        app,
        port=port,
        http=GuardedHttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    servers.append(server)
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


async def test_trailers_are_not_collected_without_end(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST /length HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    with suppress(ConnectionError):
        for _ in range(1000):  # a megabyte
            writer.write(b"X-Trailer: " + b"x" * 987 + b"\r\n")
            await writer.drain()
        assert await reader.read() == b""


async def test_small_chunks_of_a_body_are_no_trailers(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST /length HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"1\r\nx\r\n" * 1024 + b"0\r\nX-Request-Id: trailer\r\n\r\n")
    _, head, body = await answer(reader)
    assert body == b"1024"
    assert b"trailer" not in head
    writer.write(GET)
    assert (await answer(reader))[2] == b"7"


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, connections: Any, until: Any, connection: bytes
) -> None:
    monkeypatch.setattr(protocol, "_WRITE_SECONDS", 0.2)
    _, writer = await connect()
    assert isinstance(writer.transport, asyncio.Transport)
    writer.transport.pause_reading()
    writer.write(b"GET /large?size=50000000 HTTP/1.1\r\nHost: test\r\nConnection: %b\r\n\r\n" % connection)

    async def gone() -> bool:
        return not connections()

    await until(gone)


@pytest.mark.parametrize("path", [b"large", b"stream"])
async def test_a_client_that_reads_slowly_is_not(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    monkeypatch.setattr(protocol, "_WRITE_SECONDS", 0.1)
    reader, writer = await connect()
    writer.write(b"GET /%b?size=20000000 HTTP/1.1\r\nHost: test\r\n\r\n" % path)
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(20):
        await reader.readexactly(1_000_000)
        await asyncio.sleep(0.02)


async def test_one_connection_more_closes_an_idle_one(
    connect: Connect, connections: Any, release: asyncio.Event, until: Any
) -> None:
    async def both_busy() -> bool:
        return [each.is_idle for each in connections()] == [False, False]

    busy = await connect()
    busy[1].write(b"GET /held HTTP/1.1\r\nHost: test\r\n\r\n")
    idle = await connect()
    idle[1].write(GET)
    await answer(idle[0])
    connections(limit=2)
    one_more = await connect()
    assert await idle[0].read() == b""
    one_more[1].write(b"GET /held HTTP/1.1\r\nHost: test\r\n\r\n")
    await until(both_busy)
    refused, _ = await connect()
    status, _, body = await answer(refused)
    assert (status, b"Too many connections" in body) == (503, True)
    release.set()
    for reader, _ in (busy, one_more):
        assert (await answer(reader))[2] == b'"held"'


async def test_a_refusal_on_a_closing_connection_is_silent() -> None:
    class Closing:
        def is_closing(self) -> bool:
            return True

    config = uvicorn.Config(lambda: None, log_config=None)
    connection = GuardedHttpProtocol(config, uvicorn.server.ServerState(), {})
    connection.transport = Closing()  # type: ignore[assignment] # all that is asked of it
    connection._head_is_late()
