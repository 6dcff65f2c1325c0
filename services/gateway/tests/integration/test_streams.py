"""Server-sent events through real processes: told at once, resumed, bounded, and ended for the right reasons."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import httpx
import pytest

EVENTS = "/v1/me/events"
Listen = Callable[..., Awaitable["Listener"]]


class Listener:
    """Reads one stream, message by message."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def message(self) -> dict[str, str]:
        """The next one's fields; a comment is a field without a name."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self._lines:
                if not line:
                    return fields
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        return fields

    async def event(self) -> tuple[str, Any, str]:
        """The next that is no comment: its name, data and id."""
        while "event" not in (fields := await self.message()):
            assert fields, "the stream is over"
        return fields["event"], json.loads(fields["data"]), fields.get("id", "")

    async def is_over(self) -> bool:
        return await self.message() == {}


@asynccontextmanager
async def open_listener(gateway: Any, headers: dict[str, str]) -> AsyncIterator[Listener]:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=None) as client,  # noqa: S113 - the listener has timeouts of its own
        client.stream("GET", f"http://127.0.0.1:{gateway.port}{EVENTS}", headers=headers) as response,
    ):
        yield Listener(response)


@pytest.fixture
async def listen(as_ada: dict[str, str]) -> AsyncIterator[Listen]:
    """Open a stream of Ada's that has been greeted."""
    async with AsyncExitStack() as stack:

        async def start(gateway: Any, **headers: str) -> Listener:
            listener = await stack.enter_async_context(open_listener(gateway, {**as_ada, **headers}))
            assert listener.response.status_code == 200, await listener.response.aread()
            return listener

        yield start


@pytest.fixture
def kafka(kafka_bootstrap: str) -> dict[str, str]:
    return {"KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap}


async def test_each_of_ones_clients_is_told_and_nobody_elses(
    start_gateway: Any, kafka: dict[str, str], listen: Listen, issuer: Any, ada: str, tell: Any
) -> None:
    gateway = await start_gateway(**kafka, STREAMS__HEARTBEAT_SECONDS=0.2)
    listeners = [await listen(gateway) for _ in range(2)]
    for listener in listeners:
        assert (await listener.event())[:2] == ("ready", {})
    headers = listeners[0].response.headers
    assert headers["content-type"] == "text/event-stream"
    assert (headers["cache-control"], "content-length" in headers) == ("no-store", False)
    async with open_listener(gateway, issuer.bearer("0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0009")) as other:
        assert (await other.event())[0] == "ready"
        offset = await tell("orders.order_paid.v1", "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0002", 3)
        for listener in listeners:
            name, data, position = await listener.event()
            assert (name, data) == ("dashboard_changed", {"sections": ["orders"]})
            assert position == f"-1.{offset}+", "statistics are to come"
        await tell("users.user_updated.v1", ada, 2)
        for listener in listeners:
            assert (await listener.event())[1] == {"sections": ["user"]}
        assert await other.message() == {"": ""}, "a heartbeat"
        assert await other.message() == {"": ""}
    assert await gateway.metric("shop_gateway_streams") == 2


async def test_statistics_are_told_of_when_they_show_the_order(
    start_gateway: Any,
    kafka: dict[str, str],
    listen: Listen,
    as_ada: dict[str, str],
    ada: str,
    tell: Any,
    users: Any,
    act: Any,
) -> None:
    gateway = await start_gateway(**kafka)
    stats = f"GET /v1/users/{ada}/stats"
    users.on(f"GET /v1/users/{ada}", act.answer({"id": ada}))
    users.on(stats, act.answer({"orders": 0}, 200, "Projected-Offset: -1"))
    listener = await listen(gateway)
    await listener.event()
    offset = await tell("orders.order_placed.v1", "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0002", 1)
    name, data, pending = await listener.event()
    assert (name, data, pending) == ("dashboard_changed", {"sections": ["orders"]}, f"-1.{offset}+")
    back = await listen(gateway, **{"Last-Event-ID": pending})
    assert await back.event() == ("ready", {}, pending)
    late = await listen(await start_gateway(**kafka))
    users.on(stats, act.answer({"orders": 1}, 200, f"Projected-Offset: {offset}"))
    for each in (listener, back):
        assert await each.event() == ("dashboard_changed", {"sections": ["stats"]}, f"-1.{offset}")
    while (await late.event())[1:] != ({"sections": ["stats"]}, f"-1.{offset}"):
        pass
    async with httpx.AsyncClient(trust_env=False, headers=as_ada) as client:
        answer = await client.get(f"http://127.0.0.1:{gateway.port}/v1/me/dashboard")
    assert answer.json()["stats"] == {"orders": 1}


async def test_when_it_is_told_nothing_older_is_answered(
    start_gateway: Any,
    kafka: dict[str, str],
    listen: Listen,
    as_ada: dict[str, str],
    ada: str,
    tell: Any,
    users: Any,
    act: Any,
) -> None:
    gateway = await start_gateway(**kafka)
    listener = await listen(gateway)
    await listener.event()
    users.on(f"GET /v1/users/{ada}/stats", act.answer({}))
    async with httpx.AsyncClient(
        trust_env=False, base_url=f"http://127.0.0.1:{gateway.port}", headers=as_ada
    ) as client:
        for version in range(2, 30):
            users.on(f"GET /v1/users/{ada}", act.answer({"version": version}, 200, f'ETag: "{version}"'))
            await tell("users.user_updated.v1", ada, version)
            await listener.event()
            for _ in range(2):
                assert (await client.get("/v1/me/dashboard")).json()["user"] == {"version": version}


async def test_who_comes_back_is_told_if_anything_may_have_been_missed(
    start_gateway: Any, kafka: dict[str, str], listen: Listen, ada: str, tell: Any
) -> None:
    here, there = await start_gateway(**kafka), await start_gateway(**kafka)
    listener = await listen(here)
    greeting = await listener.message()
    assert int(greeting["retry"]) > 0
    assert (await listen(here, **{"Last-Event-ID": greeting["id"]})).response.status_code == 200
    await tell("users.user_updated.v1", ada, 2)
    _, _, position = await listener.event()
    other = await listen(there)
    async with asyncio.timeout(30):
        while (await other.event())[2] != position:  # until this one has heard it, too
            other = await listen(there)
    for gateway in (here, there):
        back = await listen(gateway, **{"Last-Event-ID": position})
        assert (await back.event())[0] == "ready", "nothing was missed"
        for last in (greeting["id"], "-1.-1", "no-id-of-ours", "9" * 100):
            back = await listen(gateway, **{"Last-Event-ID": last})
            assert (await back.event())[:2] == ("dashboard_changed", {"sections": ["user", "orders", "stats"]})


async def test_it_needs_a_token_and_ends_with_it(
    start_gateway: Any, kafka: dict[str, str], issuer: Any, ada: str
) -> None:
    gateway = await start_gateway(**kafka)
    async with open_listener(gateway, {}) as nobody:
        assert nobody.response.status_code == 401
    soon = {"Authorization": f"Bearer {issuer.token(ada, exp=int(time.time()) + 2)}"}
    async with open_listener(gateway, soon) as listener:
        assert (await listener.event())[0] == "ready"
        assert (await listener.event())[:2] == ("end", {"reason": "token_expired"})
        assert await listener.is_over()
    assert await gateway.metric("shop_gateway_streams_ended_total", reason="token_expired") == 1


async def test_who_is_deactivated_is_told_to_go_everywhere_and_let_in_nowhere(
    start_gateway: Any, kafka: dict[str, str], listen: Listen, as_ada: dict[str, str], ada: str, tell: Any
) -> None:
    gateways = [await start_gateway(**kafka) for _ in range(2)]
    listeners = [await listen(gateway) for gateway in gateways]
    for listener in listeners:
        await listener.event()
    await tell("users.user_deactivated.v1", ada, 2)
    for listener in listeners:
        assert (await listener.event())[0] == "dashboard_changed"
        assert (await listener.event())[:2] == ("end", {"reason": "revoked"})
        assert await listener.is_over()
    late = await start_gateway(**kafka)
    for gateway in (*gateways, late):
        async with httpx.AsyncClient(trust_env=False) as client:
            for path in (EVENTS, "/v1/me/dashboard", "/v1/orders"):
                answer = await client.get(f"http://127.0.0.1:{gateway.port}{path}", headers=as_ada)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_there_is_room_for_so_many_and_for_more_when_they_leave(
    start_gateway: Any, listen: Listen, as_ada: dict[str, str]
) -> None:
    gateway = await start_gateway(STREAMS__PER_USER=2, HTTP__LIMIT_CONCURRENCY=2)
    first = await listen(gateway)
    async with open_listener(gateway, as_ada) as second:
        assert second.response.status_code == 200
        async with open_listener(gateway, as_ada) as third:
            assert third.response.status_code == 429
            assert json.loads(await third.response.aread())["code"] == "too_many_streams"
    async with asyncio.timeout(30):
        while await gateway.metric("shop_gateway_streams") != 1:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.02)
    again = await listen(gateway)
    assert (await again.event())[0] == "ready"
    assert (await first.event())[0] == "ready"
    assert await gateway.metric("shop_gateway_streams_ended_total", reason="client_left") == 1


async def test_what_is_asked_behind_a_stream_is_not_answered_and_does_no_harm(
    start_gateway: Any, as_ada: dict[str, str], tmp_path: Any
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        gateway = await start_gateway(stdout=out)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        request = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {as_ada['Authorization']}\r\n\r\n".encode()
        writer.write(request * 3)
        async with asyncio.timeout(30):
            begun = await reader.readuntil(b"event: ready")
        assert begun.count(b"HTTP/1.1") == 1
        writer.write(b"and what is no request\r\n\r\n" + request)
        assert await gateway.metric("shop_gateway_streams") == 1
        gateway.process.terminate()
        async with asyncio.timeout(30):
            assert b"shutdown" in await reader.read()
            assert await gateway.process.wait() == 0
        writer.close()
    assert '"level": "ERROR", "logger": "uvicorn' not in log.read_text()


async def test_who_does_not_read_is_hung_up_on_and_nobody_else(
    start_gateway: Any, kafka: dict[str, str], listen: Listen, as_ada: dict[str, str], ada: str, tell: Any
) -> None:
    gateway = await start_gateway(**kafka)
    quick = await listen(gateway)
    request = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {as_ada['Authorization']}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # or the kernel would keep megabytes for it
        slow.settimeout(0)
        await loop.sock_connect(slow, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(slow, request)
        versions, heard = count(2), [await quick.event()]
        reading = asyncio.create_task(_read_all(quick, heard))
        async with asyncio.timeout(90):
            while await gateway.metric("shop_gateway_streams") != 2:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.02)
            while await gateway.metric("shop_gateway_streams") != 1:
                await asyncio.gather(*(tell("users.user_updated.v1", ada, next(versions)) for _ in range(100)))
            before = len(heard)
            while len(heard) == before:
                await tell("users.user_updated.v1", ada, next(versions))
    assert await gateway.metric("shop_gateway_streams_ended_total", reason="client_left") == 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def _read_all(listener: Listener, heard: list[Any]) -> None:
    while True:
        heard.append(await listener.event())


async def test_streams_do_not_keep_a_server_from_stopping(start_gateway: Any, listen: Listen) -> None:
    gateway = await start_gateway(HTTP__GRACEFUL_SECONDS=60)
    listeners = [await listen(gateway) for _ in range(3)]
    for listener in listeners:
        await listener.event()
    gateway.process.send_signal(signal.SIGTERM)
    for listener in listeners:
        assert (await listener.event())[:2] == ("end", {"reason": "shutdown"})
        assert await listener.is_over()
    async with asyncio.timeout(30):
        assert await gateway.process.wait() == 0
