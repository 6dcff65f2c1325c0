"""The hot path where owners have to be asked: it answers, fails and ends as the application would."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shop_common.testing import until

BOARD = "/v1/me/dashboard"
pytestmark = pytest.mark.usefixtures("items")
LIVE = {"Cache-Control": "no-cache"}
UNUSUAL = {"Prefer": "respond-async"}
"""Changes nothing, but has the application answer."""
VARYING = {"x-request-id", "x-process-time", "server-timing", "ratelimit", "date", "age", "content-length"}

_IN_A_ROW = 4
"""By then leases last for more than a few."""


@pytest.fixture
async def gateway(start_gateway: Any) -> Any:
    return await start_gateway(CACHE__ERROR_SECONDS=0.000001)


@pytest.fixture
async def client(gateway: Any, as_ada: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(gateway, as_ada) as client:
        yield client


def open_client(gateway: Any, bearer: dict[str, str]) -> httpx.AsyncClient:
    url = f"http://127.0.0.1:{gateway.port}"
    return httpx.AsyncClient(base_url=url, headers=bearer | LIVE | {"Accept-Encoding": "identity"}, trust_env=False)


async def gathered(gateway: Any) -> float:
    return float(await gateway.metric("shop_gateway_at_once_total", source="owners"))


async def get_at_once(gateway: Any, client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    """Ask until several in a row are such: a token's first request, and one without a lease, are the application's."""
    in_a_row = 0
    for _ in range(60):
        before = await gathered(gateway)
        answer = await client.get(BOARD, headers=headers)
        in_a_row = in_a_row + 1 if await gathered(gateway) == before + 1 else 0
        if in_a_row == _IN_A_ROW:
            return answer
    raise AssertionError("it was not gathered at once")


def same(quick: httpx.Response, slow: httpx.Response) -> None:
    assert quick.status_code == slow.status_code
    assert quick.headers.keys() == slow.headers.keys()
    for name in quick.headers.keys() - VARYING:
        assert quick.headers[name] == slow.headers[name], name
    unlike = {"_sections", "request_id"}
    documents = [{k: v for k, v in each.json().items() if k not in unlike} for each in (quick, slow) if each.content]
    assert not documents or documents[0] == documents[1]


async def test_it_answers_as_the_application_does(gateway: Any, client: httpx.AsyncClient, items: Any) -> None:
    quick = await get_at_once(gateway, client)
    assert quick.json()["orders"] == {"items": items}
    assert quick.headers["cache-status"] == 'shop-gateway; fwd=request; detail="user orders stats"'
    same(quick, await client.get(BOARD, headers=UNUSUAL))


async def test_a_304_and_gzip_are_the_same_too(gateway: Any, client: httpx.AsyncClient) -> None:
    tag = {"If-None-Match": (await client.get(BOARD)).headers["etag"]}
    for headers in (tag, {"Accept-Encoding": "gzip"}):
        same(await get_at_once(gateway, client, **headers), await client.get(BOARD, headers=headers | UNUSUAL))


async def test_what_is_not_in_memory_is_gathered_too(start_gateway: Any, as_ada: dict[str, str], users: Any) -> None:
    gateway = await start_gateway(CACHE__FRESH_SECONDS=600)
    async with open_client(gateway, as_ada) as client:
        for _ in range(10):
            await client.get("/v1/me")  # its token is known, and its quota leased
        answer = await client.get(BOARD, headers={"Cache-Control": ""})
        assert (answer.status_code, await gathered(gateway)) == (200, 1)
        asked = len(users.seen)
        assert (await client.get(BOARD, headers={"Cache-Control": ""})).content == answer.content
        assert (len(users.seen), await gathered(gateway)) == (asked, 1), "from memory"


async def test_a_failed_section_is_said_to_be(gateway: Any, client: httpx.AsyncClient, orders: Any, act: Any) -> None:
    orders.on("GET /v1/orders", act.problem(500, "internal_error"))
    quick = await get_at_once(gateway, client)
    assert (quick.json()["orders"], quick.headers["cache-control"]) == (None, "no-store")
    assert quick.json()["_sections"]["orders"]["problem"]["status"] == 500
    same(quick, await client.get(BOARD, headers=UNUSUAL))


@pytest.mark.parametrize("status", [404, 418, 499, 500])
async def test_the_required_sections_refusal_is_passed_on(
    status: int, gateway: Any, client: httpx.AsyncClient, users: Any, act: Any, ada: str
) -> None:
    users.on(f"GET /v1/users/{ada}", act.problem(status, "no"))
    quick = await get_at_once(gateway, client)
    assert (quick.status_code, quick.json()["code"]) == (status, "no")
    same(quick, await client.get(BOARD, headers=UNUSUAL))


async def test_the_required_sections_failure_is_a_problem(
    gateway: Any, client: httpx.AsyncClient, users: Any, act: Any, ada: str
) -> None:
    users.on(f"GET /v1/users/{ada}", act.broken(b"no HTTP\r\n\r\n"))
    quick = await get_at_once(gateway, client)
    assert (quick.status_code, quick.json()["code"]) == (502, "upstream_malformed")
    assert quick.json()["request_id"] == quick.headers["x-request-id"]
    same(quick, await client.get(BOARD, headers=UNUSUAL))


async def test_a_silent_owner_costs_its_section_and_not_more_than_its_time(
    start_gateway: Any, as_ada: dict[str, str], orders: Any, act: Any
) -> None:
    gateway = await start_gateway(DEADLINES__SECTION_SECONDS=0.3, CACHE__ERROR_SECONDS=0.000001)
    async with open_client(gateway, as_ada) as client:
        await get_at_once(gateway, client)
        orders.on("GET /v1/orders", act.silence())
        before = await gathered(gateway)
        answer = await client.get(BOARD)
        assert await gathered(gateway) == before + 1
    assert answer.json()["_sections"]["orders"]["problem"]["code"] == "upstream_deadline"
    assert 0.25 < answer.elapsed.total_seconds() < 2


def request(bearer: dict[str, str], *lines: str) -> bytes:
    head = [
        f"GET {BOARD} HTTP/1.1",
        "Host: shop",
        "Cache-Control: no-cache",
        f"Authorization: {bearer['Authorization']}",
    ]
    return "\r\n".join([*head, *lines, "", ""]).encode()


async def test_what_a_client_that_has_gone_asked_for_is_given_up(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str], orders: Any, act: Any, hold: Any
) -> None:
    await get_at_once(gateway, client)
    held = hold()
    orders.on("GET /v1/orders", act.answer({"items": []}, held=held))
    before = await gathered(gateway)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request(as_ada))
    await held.reached(1)
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(10):
        while await gateway.metric("shop_http_requests_total", status="499") != 1:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)
    assert await gathered(gateway) == before + 1
    assert await gateway.metric("shop_http_requests_in_progress") == 0
    cancelled = {"route": "/v1/orders", "outcome": "cancelled"}
    assert await gateway.metric("shop_gateway_upstream_seconds_count", **cancelled) == 1
    held.open()
    assert (await client.get(BOARD)).status_code == 200


async def test_what_comes_meanwhile_waits_for_its_turn(
    gateway: Any, client: httpx.AsyncClient, as_ada: dict[str, str], orders: Any, act: Any, hold: Any
) -> None:
    await get_at_once(gateway, client)
    held = hold()
    orders.on("GET /v1/orders", act.answer({"slow": 1}, held=held))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request(as_ada))
    await held.reached(1)
    second = request(as_ada, "Connection: close").replace(BOARD.encode(), b"/v1/nowhere")
    for part in (second[:10], second[10:]):
        writer.write(part)
        await writer.drain()
    held.open()
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.index(b'{"slow": 1}') < answer.index(b"HTTP/1.1 404")
    writer.close()
    await writer.wait_closed()


async def test_a_connection_stays_for_as_long_as_its_answer_takes(
    start_gateway: Any, as_ada: dict[str, str], orders: Any, act: Any, hold: Any
) -> None:
    gateway = await start_gateway(
        HTTP__KEEP_ALIVE_SECONDS=1, DEADLINES__SECTION_SECONDS=20, DEADLINES__DASHBOARD_SECONDS=20
    )
    async with open_client(gateway, as_ada) as client:
        await get_at_once(gateway, client)
        held = hold()
        orders.on("GET /v1/orders", act.answer({"slow": 1}, held=held))
        asking = asyncio.create_task(client.get(BOARD))
        await held.reached(1)
        await asyncio.sleep(2.5)  # longer than an idle connection is kept
        held.open()
        assert (await asking).json()["orders"] == {"slow": 1}


async def asks_to_leave(client: httpx.AsyncClient) -> bool:
    return "connection" in (await client.get("/livez")).headers


async def is_deaf(gateway: Any) -> bool:
    return not await gateway.is_live()


async def test_a_gateway_that_stops_answers_first(
    start_gateway: Any, as_ada: dict[str, str], orders: Any, act: Any, hold: Any
) -> None:
    deadlines = {f"DEADLINES__{name}_SECONDS": 20 for name in ("SECTION", "DASHBOARD")}
    gateway = await start_gateway(HTTP__DRAIN_SECONDS=20, **deadlines)
    async with open_client(gateway, as_ada) as client:
        await get_at_once(gateway, client)
        held = hold()
        orders.on("GET /v1/orders", act.answer({"last": 1}, held=held))
        asking = asyncio.create_task(client.get(BOARD))
        await held.reached(1)
        gateway.process.terminate()
        await until(lambda: asks_to_leave(client))
        gateway.process.terminate()  # which ends the wait for a balancer
        await until(lambda: is_deaf(gateway))
        assert not asking.done()
        held.open()
        answer = await asking
    assert (answer.json()["orders"], answer.headers["connection"]) == ({"last": 1}, "close")
    async with asyncio.timeout(30):
        assert await gateway.process.wait() == 0


async def test_what_is_too_much_at_once_is_refused(
    start_gateway: Any, as_ada: dict[str, str], orders: Any, act: Any, hold: Any
) -> None:
    gateway = await start_gateway(HTTP__LIMIT_CONCURRENCY=2)
    async with open_client(gateway, as_ada) as client:
        await get_at_once(gateway, client)
        held = hold()
        orders.on("GET /v1/orders", act.answer({"items": []}, held=held))
        asking = [asyncio.create_task(client.get(BOARD)) for _ in range(2)]
        await held.reached(2)
        refused = await client.get(BOARD)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        held.open()
        assert [(await each).status_code for each in asking] == [200, 200]


async def test_a_recorded_one_is_one_trace(
    start_gateway: Any, users: Any, orders: Any, act: Any, as_ada: dict[str, str], ada: str
) -> None:
    users.on("POST /v1/traces", act.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    gateway = await start_gateway(TRACING__ENDPOINT=users.url, TRACING__SAMPLE_RATIO=0.000001)
    async with open_client(gateway, as_ada) as client:
        for trace, sampled in (("1" * 32, "00"), ("2" * 32, "01")):
            await get_at_once(gateway, client, traceparent=f"00-{trace}-b7ad6b7169203331-{sampled}")
            assert orders.last("/v1/orders").headers["traceparent"][3:35] == trace
            assert orders.last("/v1/orders").headers["traceparent"][-2:] == sampled
    async with asyncio.timeout(30):
        while not (exported := b"".join(each.body for each in users.seen if each.target == "/v1/traces")):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)
    assert exported.count(bytes.fromhex("2" * 32)) >= 4, "the request, and a call for each section"
    assert bytes.fromhex("1" * 32) not in exported


async def test_each_is_in_the_access_log(start_gateway: Any, as_ada: dict[str, str], tmp_path: Any) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        gateway = await start_gateway(stdout=out)
        async with open_client(gateway, as_ada) as client:
            await get_at_once(gateway, client)
            before = await gathered(gateway)
            assert (await client.get(BOARD, headers={"X-Request-Id": "mine"})).headers["x-request-id"] == "mine"
            assert await gathered(gateway) == before + 1
        gateway.process.terminate()
        await gateway.process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [logged] = [line for line in lines if line.get("request_id") == "mine"]
    assert (logged["status"], logged["method"], logged["path"]) == (200, "GET", BOARD)
