"""The HTTP pool: connections are kept, waits end, nothing is followed or unpacked behind the caller's back."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pyreqwest.exceptions import ConnectError, PoolTimeoutError, RequestTimeoutError

from shop_common.http import open_http_client, open_http_pool
from shop_common.settings import HttpClientSettings

PACKED = gzip.compress(b"packed")


class Server:
    """Answers by path, and counts connections and requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.heads: list[str] = []
        self.asked = asyncio.Event()
        self.address = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                self.asked.set()
                path = head.split()[1]
                if path == "/silent":
                    continue
                if path == "/moved":
                    writer.write(b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n")
                elif path == "/packed":
                    fields = f"Content-Encoding: gzip\r\nContent-Length: {len(PACKED)}\r\n\r\n"
                    writer.write(b"HTTP/1.1 200 OK\r\n" + fields.encode() + PACKED)
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    own = Server()
    listening = await asyncio.start_server(own.serve, "127.0.0.1", 0)
    own.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield own
    listening.close()
    for writer in own.writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def get(pool: Any, url: str) -> tuple[int, bytes]:
    response = await pool.get(url).build().send()
    return response.status, bytes(await response.bytes())


async def test_one_connection_serves_many_requests(server: Server) -> None:
    async with open_http_pool(HttpClientSettings()) as pool:
        for _ in range(5):
            assert await get(pool, f"{server.address}/ok") == (200, b"ok")
    assert (server.connections, len(server.heads)) == (1, 5)


async def test_connections_are_bounded(server: Server) -> None:
    async with open_http_pool(HttpClientSettings(max_connections=2, connect_seconds=5)) as pool:
        answers = await asyncio.gather(*(get(pool, f"{server.address}/ok") for _ in range(20)))
    assert answers == [(200, b"ok")] * 20
    assert server.connections <= 2


async def test_a_full_pool_ends_the_wait_in_time(server: Server) -> None:
    settings = HttpClientSettings(max_connections=1, connect_seconds=0.1, total_seconds=0.5)
    async with open_http_pool(settings) as pool, asyncio.timeout(10):
        holding = asyncio.create_task(get(pool, f"{server.address}/silent"))
        await server.asked.wait()
        with pytest.raises(PoolTimeoutError):
            await get(pool, f"{server.address}/ok")
        with pytest.raises(RequestTimeoutError):
            await holding
        assert (await get(pool, f"{server.address}/ok"))[0] == 200


async def test_a_cancelled_request_keeps_its_place_no_longer_than_its_time(server: Server) -> None:
    settings = HttpClientSettings(max_connections=1, connect_seconds=5, total_seconds=0.3)
    async with open_http_pool(settings) as pool, asyncio.timeout(10):
        for _ in range(3):
            server.asked.clear()
            cancelled = asyncio.create_task(get(pool, f"{server.address}/silent"))
            await server.asked.wait()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            answer = await pool.get(f"{server.address}/ok").timeout(timedelta(seconds=5)).build().send()
            assert answer.status == 200


async def test_an_upstream_that_says_nothing_is_given_up(server: Server) -> None:
    settings = HttpClientSettings(connect_seconds=0.2, total_seconds=0.3)
    async with open_http_pool(settings) as pool, asyncio.timeout(10):
        with pytest.raises(RequestTimeoutError):
            await get(pool, f"{server.address}/silent")
        with pytest.raises(RequestTimeoutError):
            await pool.get(f"{server.address}/silent").timeout(timedelta(seconds=0.05)).build().send()


async def test_a_refused_connection_is_an_error_at_once() -> None:
    async with open_http_pool(HttpClientSettings()) as pool, asyncio.timeout(5):
        with pytest.raises(ConnectError):
            await get(pool, "http://127.0.0.1:1/")


async def test_redirects_are_not_followed_and_bodies_not_unpacked(server: Server) -> None:
    async with open_http_pool(HttpClientSettings()) as pool:
        assert (await get(pool, f"{server.address}/moved"))[0] == 302
        assert await get(pool, f"{server.address}/packed") == (200, PACKED)
    assert all("accept-encoding" not in head.lower() for head in server.heads)


async def test_a_proxy_of_the_environment_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with open_http_pool(HttpClientSettings()) as pool, open_http_client(pool) as client:
        assert (await client.get(f"{server.address}/ok")).text == "ok"


async def test_httpx_speaks_through_the_pool_and_by_its_time(server: Server) -> None:
    settings = HttpClientSettings(connect_seconds=0.2, total_seconds=0.3)
    async with open_http_pool(settings) as pool, asyncio.timeout(3):  # httpx's own timeouts come to 20 s
        async with open_http_client(pool) as client:
            assert (await client.get(f"{server.address}/ok")).text == "ok"
            with pytest.raises(httpx.TimeoutException):
                await client.get(f"{server.address}/silent")
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1/")
        assert (await get(pool, f"{server.address}/ok"))[0] == 200, "the pool is somebody else's to close"
