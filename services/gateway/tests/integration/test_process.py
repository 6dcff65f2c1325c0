"""The gateway as a process on a socket: its command, its ports, and bytes two parsers might read differently."""

import asyncio
import signal
from typing import Any

import httpx
import pytest

ASK = b"POST /v1/auth/token HTTP/1.1\r\nHost: shop\r\n"
SMUGGLED = b"GET /v1/users HTTP/1.1\r\nHost: shop\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4, 5\r\n",
        b"Content-Length: +4\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length : 4\r\n",
        b"X: y\x00z\r\n",
    ],
)
async def test_an_ambiguous_length_never_reaches_an_upstream(head: bytes, running: Any, users: Any) -> None:
    answer = await running.say(ASK + head + b"\r\n0\r\n\r\n" + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1, "nothing after it was read as a request"
    assert users.seen == []


async def test_a_chunked_body_goes_on_with_a_length(running: Any, users: Any, act: Any) -> None:
    users.on("POST /v1/auth/token", act.answer({}))
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    answer = await running.say(ASK + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200 ")
    seen = users.last("/v1/auth/token")
    assert (seen.body, seen.headers["content-length"]) == (b"hello world", "11")
    assert "transfer-encoding" not in seen.headers


async def test_pipelined_requests_get_their_answers_in_order(running: Any, users: Any, act: Any) -> None:
    users.on("POST /v1/auth/token", act.answer({"first": 1}))
    users.on("POST /v1/auth/refresh", act.answer({"second": 2}))
    first = ASK + b"Content-Length: 2\r\n\r\nab"
    second = b"POST /v1/auth/refresh HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answer = await running.say(first + second)
    assert answer.index(b'{"first": 1}') < answer.index(b'{"second": 2}')
    assert [seen.body for seen in users.seen] == [b"ab", b""]


async def test_an_absolute_or_encoded_target_is_no_way_around_the_table(running: Any, users: Any) -> None:
    for target in (b"http://users.internal/metrics", b"/v1/../metrics", b"//metrics", b"/v1/users/%2e%2e%2fmetrics"):
        answer = await running.say(b"GET " + target + b" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), target
    assert users.seen == []


async def test_metrics_are_on_their_own_port_only(running: Any, users: Any, act: Any) -> None:
    users.on("POST /v1/auth/token", act.answer({}))
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.post(f"http://127.0.0.1:{running.port}/v1/auth/token")
        metrics = await client.get(f"http://127.0.0.1:{running.metrics_port}/metrics")
        assert (
            'shop_gateway_upstream_seconds_count{outcome="ok",route="/v1/auth/token",upstream="users"} 1.0'
            in metrics.text
        )
        for policy in ("default", "login"):
            counted = f'shop_gateway_rate_decisions_total{{decision="allowed",policy="{policy}",source="redis"}} 1.0'
            assert counted in metrics.text
        assert (await client.get(f"http://127.0.0.1:{running.port}/metrics")).status_code == 404


async def test_told_to_end_it_finishes_what_is_under_way(running: Any, users: Any, act: Any, hold: Any) -> None:
    held = hold()
    users.on("POST /v1/auth/token", act.answer({"done": True}, held=held))
    asking = asyncio.create_task(running.say(ASK + b"Content-Length: 0\r\n\r\n"))
    await held.reached(1)
    running.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        while await running.is_live():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.05)
        held.open()
        assert b'{"done": true}' in await asking
        assert await running.process.wait() in {0, -signal.SIGTERM}


async def test_bad_settings_are_one_line_each_and_code_78(run_with: Any) -> None:
    code, errors = await run_with(
        USERS_URL="users",
        ORDERS_URL="http://orders:8002",
        REDIS__URL="redis://redis:6379",
        KAFKA__BOOTSTRAP_SERVERS="kafka:9092",
    )
    assert code == 78
    assert len(errors.splitlines()) == 1
    assert errors.startswith(b"GATEWAY_USERS_URL: ")
