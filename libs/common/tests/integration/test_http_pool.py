"""HTTP where throughput does not matter: calls end in time, and nothing is followed behind the caller's back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest

from shop_common.http import open_http_client
from shop_common.settings import HttpClientSettings


class Server:
    """Answers by path, and counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.address = ""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
                if path == "/silent":
                    continue
                if path == "/moved":
                    writer.write(b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n")
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


async def test_connections_are_kept_and_bounded(server: Server) -> None:
    async with open_http_client(HttpClientSettings(max_connections=2, connect_seconds=5)) as client:
        answers = await asyncio.gather(*(client.get(f"{server.address}/ok") for _ in range(20)))
    assert {answer.text for answer in answers} == {"ok"}
    assert server.connections <= 2


async def test_an_upstream_that_says_nothing_is_given_up(server: Server) -> None:
    settings = HttpClientSettings(max_connections=1, total_seconds=0.2)
    async with open_http_client(settings) as client, asyncio.timeout(5):
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                await client.get(f"{server.address}/silent")
        assert (await client.get(f"{server.address}/ok")).text == "ok"


async def test_a_call_that_its_caller_gives_up_leaves_its_place(server: Server) -> None:
    async with open_http_client(HttpClientSettings(max_connections=1)) as client:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get(f"{server.address}/silent")
        assert (await client.get(f"{server.address}/ok")).text == "ok"


async def test_a_refused_connection_is_an_error_at_once() -> None:
    async with open_http_client(HttpClientSettings()) as client, asyncio.timeout(5):
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:1/")


async def test_redirects_are_not_followed(server: Server) -> None:
    async with open_http_client(HttpClientSettings()) as client:
        assert (await client.get(f"{server.address}/moved")).status_code == 302


async def test_a_proxy_of_the_environment_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with open_http_client(HttpClientSettings()) as client:
        assert (await client.get(f"{server.address}/ok")).text == "ok"
