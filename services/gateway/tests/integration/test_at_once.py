"""The hot path on a socket: it answers as the application would, and leaves whatever is unusual to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

UNUSUAL = {"Prefer": "respond-async"}
"""Changes nothing, but has the application answer."""
VARYING = {"x-request-id", "x-process-time", "server-timing", "ratelimit", "date", "age"}
BOARD = "/v1/me/dashboard"
pytestmark = pytest.mark.usefixtures("items")


@pytest.fixture
async def gateway(start_gateway: Any) -> Any:
    return await start_gateway(CACHE__FRESH_SECONDS=600)


@pytest.fixture
async def client(gateway: Any, as_ada: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """Ada's, whose dashboard is in memory; it asks for no encoding."""
    url = f"http://127.0.0.1:{gateway.port}"
    headers = as_ada | {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        for _ in range(2):
            assert (await client.get(BOARD)).status_code == 200
        yield client


async def at_once(gateway: Any) -> float:
    """How many were answered without the application."""
    return float(await gateway.metric("shop_gateway_at_once_total"))


async def get_at_once(gateway: Any, client: httpx.AsyncClient, path: str = BOARD, **headers: str) -> httpx.Response:
    """Ask until the answer is one of these: each time that a lease ends, the application has to take the next."""
    for _ in range(20):
        before = await at_once(gateway)
        answer = await client.get(path, headers=headers)
        if await at_once(gateway) == before + 1:
            return answer
    raise AssertionError("it was never answered at once")


async def test_it_answers_as_the_application_does(gateway: Any, client: httpx.AsyncClient) -> None:
    quick = await get_at_once(gateway, client)
    before = await at_once(gateway)
    hits = await gateway.metric("shop_gateway_dashboards_total", source="memory")
    slow = await client.get(BOARD, headers=UNUSUAL)
    assert await at_once(gateway) == before
    assert await gateway.metric("shop_gateway_dashboards_total", source="memory") == hits + 1
    assert quick.content == slow.content
    assert quick.headers.keys() == slow.headers.keys()
    for name in quick.headers.keys() - VARYING:
        assert quick.headers[name] == slow.headers[name], name
    assert quick.headers["ratelimit"].partition(";")[0] == slow.headers["ratelimit"].partition(";")[0]


async def test_a_304_is_the_same_too(gateway: Any, client: httpx.AsyncClient) -> None:
    tag = {"If-None-Match": (await client.get(BOARD)).headers["etag"]}
    quick, slow = await get_at_once(gateway, client, **tag), await client.get(BOARD, headers=tag | UNUSUAL)
    assert quick.status_code == slow.status_code == 304
    assert quick.content == b""
    assert quick.headers.keys() - {"vary"} == slow.headers.keys() - {"vary"}


async def test_who_takes_gzip_gets_it(client: httpx.AsyncClient, items: Any) -> None:
    usual = {"Accept-Encoding": "gzip, br"}
    zipped = [await client.get(BOARD, headers=headers) for headers in (usual, usual | UNUSUAL)]
    for response in zipped:
        assert (response.headers["content-encoding"], response.json()["orders"]) == ("gzip", {"items": items})
        assert "Accept-Encoding" in response.headers["vary"]
    assert zipped[0].headers["etag"] == zipped[1].headers["etag"]


async def test_a_request_id_is_kept_or_made(client: httpx.AsyncClient) -> None:
    assert (await client.get(BOARD, headers={"X-Request-Id": "mine"})).headers["x-request-id"] == "mine"
    made = (await client.get(BOARD, headers={"X-Request-Id": "not;one"})).headers["x-request-id"]
    assert len(made) >= 16


@pytest.mark.parametrize(
    "headers",
    [
        {"Consistency-Token": "made-up"},
        {"X-Deadline-Ms": "900"},
        {"Origin": "https://shop.example"},
        {"Authorization": "bearer of something else"},
        {"Authorization": "Bearer x"},
    ],
)
async def test_what_is_unusual_is_the_applications(
    headers: dict[str, str], gateway: Any, client: httpx.AsyncClient
) -> None:
    before = await at_once(gateway)
    await client.get(BOARD, headers=headers)
    assert await at_once(gateway) == before


async def test_so_is_what_another_may_not_see(
    gateway: Any, client: httpx.AsyncClient, issuer: Any, ada: str, users: Any, act: Any
) -> None:
    users.on(f"GET /v1/users/{ada}", act.problem(404, "user_not_found"))
    eve = issuer.bearer("0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0009")
    for _ in range(3):
        assert (await client.get(f"/v1/users/{ada}/dashboard", headers=eve)).status_code == 404
    admin = issuer.bearer("0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0008", "admin")
    await client.get(f"/v1/users/{ada}/dashboard", headers=admin)
    assert (await get_at_once(gateway, client, f"/v1/users/{ada}/dashboard", **admin)).json()["user"]["id"] == ada


async def test_what_is_to_be_recorded_is(start_gateway: Any, users: Any, act: Any, as_ada: dict[str, str]) -> None:
    users.on("POST /v1/traces", act.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    gateway = await start_gateway(CACHE__FRESH_SECONDS=600, TRACING__ENDPOINT=users.url, TRACING__SAMPLE_RATIO=0.000001)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{gateway.port}", headers=as_ada, trust_env=False
    ) as client:
        for trace, sampled in (("1" * 32, "00"), ("2" * 32, "01")):
            await get_at_once(gateway, client, traceparent=f"00-{trace}-b7ad6b7169203331-{sampled}")
    async with asyncio.timeout(30):
        while not (exported := [each.body for each in users.seen if each.target == "/v1/traces"]):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)
    assert b"GET /v1/me/dashboard" in exported[0]
    assert bytes.fromhex("2" * 32) in exported[0]
    assert bytes.fromhex("1" * 32) not in b"".join(exported)


async def test_a_quota_is_counted_and_its_end_is_429(start_gateway: Any, as_ada: dict[str, str]) -> None:
    gateway = await start_gateway(CACHE__FRESH_SECONDS=600, RATE_LIMIT__REQUESTS=100, RATE_LIMIT__WINDOW_SECONDS=86_400)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as client:
        statuses = [(await client.get(BOARD, headers=as_ada)).status_code for _ in range(130)]
    assert statuses.count(200) in {100, 101}, "one may come back meanwhile"
    assert statuses[-1] == 429
    assert await at_once(gateway) > 50


def request(bearer: dict[str, str], *lines: str, version: str = "1.1") -> bytes:
    head = [f"GET {BOARD} HTTP/{version}", "Host: shop", f"Authorization: {bearer['Authorization']}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


async def test_connections_are_kept_or_closed_as_asked(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str]
) -> None:
    closing = await gateway.say(request(as_ada, "Connection: close"))
    assert (closing.count(b"HTTP/1.1 200 OK"), b"connection: close" in closing) == (1, True)
    assert (await gateway.say(request(as_ada, version="1.0"))).count(b"HTTP/1.1 200 OK") == 1
    several = request(as_ada) * 50 + request(as_ada, "Connection: close")
    answer = await gateway.say(several)
    assert answer.count(b"HTTP/1.1 200 OK") == 51


async def test_only_its_own_address_is_answered(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str], ada: str
) -> None:
    await get_at_once(gateway, client, f"/v1/users/{ada}/dashboard")
    before = await at_once(gateway)
    for path in (f"/v1/order/{ada}/dashboard", f"/v2/users/{ada}/dashboard", "/v1/users/me/dashboard", f"/{BOARD}"):
        assert (await client.get(path)).status_code in {404, 422}, path
    head = request(as_ada).replace(b"GET ", b"POST ")
    assert b" 405 " in await gateway.say(head.replace(b"Host:", b"Connection: close\r\nHost:"))
    assert await at_once(gateway) == before


async def test_a_head_in_pieces_is_the_applications(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    before = await at_once(gateway)
    head = request(as_ada)
    for part in (head[:10], head[10:-1], head[-1:]):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.05)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert await at_once(gateway) == before
    writer.close()
    await writer.wait_closed()


async def test_a_connection_stays_while_it_is_used_and_no_longer(start_gateway: Any, as_ada: dict[str, str]) -> None:
    gateway = await start_gateway(CACHE__FRESH_SECONDS=600, HTTP__KEEP_ALIVE_SECONDS=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(30):
        for _ in range(10):
            writer.write(request(as_ada))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            await asyncio.sleep(0.2)
        assert await at_once(gateway) > 5
        assert await reader.read() == b"", "closed by the gateway, without a word"
    writer.close()
    await writer.wait_closed()


async def test_a_gateway_that_stops_asks_its_clients_to_leave(start_gateway: Any, as_ada: dict[str, str]) -> None:
    gateway = await start_gateway(CACHE__FRESH_SECONDS=600, HTTP__DRAIN_SECONDS=20)
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", headers=as_ada, trust_env=False)
    async with client, asyncio.timeout(30):
        await get_at_once(gateway, client)
        gateway.process.terminate()
        while "connection" not in (answer := await client.get(BOARD)).headers:
            assert answer.status_code == 200
        before = await at_once(gateway)
        answer = await client.get(BOARD)
        assert (answer.headers["connection"], await at_once(gateway)) == ("close", before + 1)
        gateway.process.terminate()
        assert await gateway.process.wait() == 0


async def test_pipelined_behind_a_slow_one_they_wait_for_their_turn(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str], orders: Any, act: Any, hold: Any
) -> None:
    held = hold()
    orders.on("GET /v1/orders", act.answer({"slow": 1}, held=held))
    slow = request(as_ada).replace(BOARD.encode(), b"/v1/orders")
    many = slow + request(as_ada) * 2000 + request(as_ada, "Connection: close")
    asking = asyncio.create_task(gateway.say(many))
    await held.reached(1)
    held.open()
    answer = await asking
    assert answer.index(b'{"slow": 1}') < answer.index(b'"_sections"')
    assert answer.count(b"HTTP/1.1 200 OK") == 2002


async def test_a_body_that_nobody_asked_for_is_read_and_dropped(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str]
) -> None:
    two = request(as_ada, "Content-Length: 4") + b"GET " + request(as_ada, "Connection: close")
    assert (await gateway.say(two)).count(b"HTTP/1.1 200 OK") == 2


async def test_each_is_in_the_access_log(start_gateway: Any, as_ada: dict[str, str], tmp_path: Any) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        gateway = await start_gateway(CACHE__FRESH_SECONDS=600, stdout=out)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as client:
            for number in range(3):
                await client.get(BOARD, headers=as_ada | {"X-Request-Id": f"r{number}"})
        gateway.process.terminate()
        await gateway.process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = {line["request_id"]: line for line in lines if line.get("route") == BOARD}
    assert logged.keys() == {"r0", "r1", "r2"}
    assert {(line["status"], line["method"], line["path"]) for line in logged.values()} == {(200, "GET", BOARD)}
    assert as_ada["Authorization"].split()[1] not in log.read_text()
