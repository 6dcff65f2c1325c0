"""Upstreams that are slow, dead, broken or hostile: each gets its own answer, and the pool stays whole."""

import asyncio
import socket
import time
from typing import Any

import httpx
import pytest

ME = "/v1/me"


def _problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    return response.status_code, response.json()["code"]


async def test_one_that_is_not_there_is_502(open_gateway: Any, bearer: dict[str, str], restartable: Any) -> None:
    gateway = await open_gateway(orders_url=restartable.url)
    assert _problem(await gateway.get("/v1/orders", headers=bearer)) == (502, "upstream_unreachable")
    assert (await gateway.get("/livez")).status_code == (await gateway.get("/readyz")).status_code == 200


async def test_one_that_accepts_no_connection_is_502_within_the_connect_timeout(
    open_gateway: Any, bearer: dict[str, str]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:  # the backlog is full: further connections are not answered
                each.settimeout(0)
                each.connect_ex(address)
            upstream = {"connect_seconds": 0.2, "total_seconds": 5}
            gateway = await open_gateway(orders_url=f"http://127.0.0.1:{address[1]}", upstream=upstream)
            assert _problem(await gateway.get("/v1/orders", headers=bearer)) == (502, "upstream_unreachable")
        finally:
            for each in waiting:
                each.close()


async def test_one_that_does_not_answer_is_504_at_the_deadline(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.silence())
    started = time.monotonic()
    response = await gateway.get("/v1/orders", headers={**bearer, "X-Deadline-Ms": "300"})
    assert response.status_code == 504
    assert response.json()["code"] in {"upstream_deadline", "deadline_exceeded"}
    assert 0.25 <= time.monotonic() - started < 2


async def test_an_upstream_has_its_own_limit_below_the_requests(
    open_gateway: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.silence())
    gateway = await open_gateway(upstream={"total_seconds": 0.2})
    assert _problem(await gateway.get("/v1/orders", headers=bearer)) == (504, "upstream_deadline")


GARBAGE = b"\x00\x01\x02 not HTTP at all\r\n\r\n"
TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"id":'
HALF_CHUNK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"
TWO_LENGTHS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"
HEADER_BYTES = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \xff\r\nContent-Length: 2\r\n\r\n{}"
HTML = b"HTTP/1.1 500 Oh\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
UNTYPED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ENCODED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (GARBAGE, "upstream_malformed"),
        (TRUNCATED, None),
        (HALF_CHUNK, None),
        (TWO_LENGTHS, "upstream_malformed"),
        (HEADER_BYTES, "upstream_malformed"),
        (HTML, "upstream_malformed"),
        (UNTYPED, "upstream_malformed"),
        (ENCODED, "upstream_malformed"),
        (b"", "upstream_unreachable"),
    ],
    ids=["garbage", "truncated", "half-chunk", "two-lengths", "header-bytes", "html", "untyped", "encoded", "reset"],
)
async def test_one_that_cannot_be_understood_is_502(
    data: bytes, code: str | None, gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(f"GET {ME}", act.broken(data))
    status, found = _problem(await gateway.get(ME, headers=bearer))
    assert status == 502
    assert found in ({code} if code else {"upstream_unreachable", "upstream_malformed"})
    users.on(f"GET {ME}", act.answer({"id": "1"}))
    assert (await gateway.get(ME, headers=bearer)).json() == {"id": "1"}, "the next one is a fresh start"


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_endless_answer_is_refused_without_reading_it(
    chunked: bool,  # noqa: FBT001 - a parameter of the test
    open_gateway: Any,
    users: Any,
    bearer: dict[str, str],
    act: Any,
) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1000000000000"
    piece = b"2000\r\n" + b"x" * 8192 + b"\r\n" if chunked else b"x" * 8192
    ended = asyncio.Event()
    users.on(
        f"GET {ME}",
        act.flood(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + framing + b"\r\n\r\n", piece, ended),
    )
    gateway = await open_gateway(upstream={"max_answer_bytes": 64 * 1024})
    response = await gateway.get(ME, headers=bearer)
    assert _problem(response) == (502, "upstream_malformed")
    assert "too large" in response.json()["detail"]
    await ended.wait()  # the connection was cut


async def test_an_answer_of_exactly_the_limit_passes(
    open_gateway: Any, users: Any, bearer: dict[str, str], act: Any
) -> None:
    gateway = await open_gateway(upstream={"max_answer_bytes": 64 * 1024})
    document = "x" * (64 * 1024 - 2)
    users.on(f"GET {ME}", act.answer(document))
    assert (await gateway.get(ME, headers=bearer)).json() == document


async def test_a_full_pool_is_503_and_only_for_that_upstream(
    open_gateway: Any, users: Any, orders: Any, bearer: dict[str, str], hold: Any, act: Any
) -> None:
    users.on(f"GET {ME}", act.answer({"id": "1"}))
    held = hold()
    orders.on("GET /v1/orders", act.answer({"items": []}, held=held))
    gateway = await open_gateway(upstream={"max_connections": 2, "connect_seconds": 0.2})
    first = [asyncio.create_task(gateway.get("/v1/orders", headers=bearer)) for _ in range(2)]
    await held.reached(2)
    third = await gateway.get("/v1/orders", headers=bearer)
    assert _problem(third) == (503, "upstream_busy")
    assert third.headers["retry-after"] == "1"
    assert (await gateway.get(ME, headers=bearer)).status_code == 200, "the other upstream's pool is its own"
    held.open()
    assert [(await task).status_code for task in first] == [200, 200]


async def test_cancelled_requests_leave_no_connection_behind(
    open_gateway: Any, orders: Any, bearer: dict[str, str], hold: Any, act: Any
) -> None:
    gateway = await open_gateway(upstream={"max_connections": 4, "connect_seconds": 1})
    for _ in range(10):
        held = hold()
        orders.on("GET /v1/orders", act.answer({"items": []}, held=held))
        cancelled = [asyncio.create_task(gateway.get("/v1/orders", headers=bearer)) for _ in range(4)]
        await held.reached(4)
        for task in cancelled:
            task.cancel()
        outcomes = await asyncio.gather(*cancelled, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        held.open()
    orders.on("GET /v1/orders", act.answer({"items": []}))
    good = await asyncio.gather(*(gateway.get("/v1/orders", headers=bearer) for _ in range(20)))
    assert {response.status_code for response in good} == {200}


async def test_an_upstream_that_comes_back_is_used_again(
    open_gateway: Any, bearer: dict[str, str], restartable: Any
) -> None:
    gateway = await open_gateway(orders_url=restartable.url)
    await restartable.start()
    assert (await gateway.get("/v1/orders", headers=bearer)).status_code == 200
    await restartable.stop()
    assert (await gateway.get("/v1/orders", headers=bearer)).status_code == 502
    await restartable.start()
    assert (await gateway.get("/v1/orders", headers=bearer)).status_code == 200
