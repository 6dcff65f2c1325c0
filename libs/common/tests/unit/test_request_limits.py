"""What a client may take of a process: body, head, time, and requests at once."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from shop_common.context import remaining_seconds
from shop_common.testing import open_app_client

CHUNKED = {"transfer-encoding": "chunked"}
router = APIRouter()


@router.post("/echo")
async def echo(request: Request) -> int:
    return len(await request.body())


@router.get("/remaining")
async def remaining() -> float | None:
    return remaining_seconds()


@router.get("/forever")
async def forever() -> None:
    await asyncio.Event().wait()


@router.get("/stubborn")
async def stubborn() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise OSError("the driver makes something else of a cancellation") from None


@router.get("/own-timeout")
async def own_timeout() -> None:
    raise TimeoutError


@pytest.fixture
async def client(build_app: Any) -> Any:
    async with open_app_client(build_app(router, deadline_seconds=5, max_body_bytes=1024)) as client:
        yield client


def code(answer: httpx.Response) -> str:
    return str(answer.json()["code"])


async def test_a_body_declared_too_large_is_413_before_it_is_read(build_app: Any, call: Any) -> None:
    answer = await call(build_app(router, max_body_bytes=1024), "POST", "/echo", {"content-length": "1025"})
    assert (answer.status, answer.problem["code"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"


async def test_a_body_streamed_too_large_is_413(build_app: Any, call: Any) -> None:
    app = build_app(router, max_body_bytes=1024)
    answer = await call(app, "POST", "/echo", CHUNKED, [b"x" * 700] * 100)
    assert (answer.status, answer.problem["code"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("declared", ["0" * 30 + "2000", "nonsense"])
async def test_an_odd_declared_length_does_not_get_past_the_limit(build_app: Any, call: Any, declared: str) -> None:
    app = build_app(router, max_body_bytes=1024)
    answer = await call(app, "POST", "/echo", {"content-length": declared}, [b"x" * 2000])
    assert answer.status == 413


async def test_a_body_at_the_limit_arrives_whole(build_app: Any, call: Any) -> None:
    app = build_app(router, max_body_bytes=1024)
    answer = await call(app, "POST", "/echo", CHUNKED, [b"x" * 1000, b"x" * 24])
    assert (answer.status, answer.body) == (200, b"1024")
    assert "connection" not in answer.headers


async def test_a_slow_body_is_408(build_app: Any, call: Any) -> None:
    app = build_app(router, body_seconds=0.02)
    answer = await call(app, "POST", "/echo", {"content-length": "3"})
    assert (answer.status, answer.problem["code"]) == (408, "body_timeout")
    assert answer.headers["connection"] == "close"


async def test_a_slow_body_is_the_clients_fault_even_when_the_deadline_is_as_short(build_app: Any, call: Any) -> None:
    app = build_app(router, body_seconds=0.02, deadline_seconds=0.02)
    assert (await call(app, "POST", "/echo", CHUNKED)).status == 408
    app = build_app(router)
    async with asyncio.timeout(5):
        assert (await call(app, "POST", "/echo", CHUNKED | {"x-deadline-ms": "20"})).status == 408


async def test_a_disconnect_in_the_body_gets_no_answer(build_app: Any, call: Any) -> None:
    answer = await call(build_app(router), "POST", "/echo", CHUNKED, [b"x", None])
    assert answer.messages == []


async def test_a_disconnect_after_the_body_is_seen_by_the_application(build_app: Any, call: Any) -> None:
    seen = []
    watching = APIRouter()

    @watching.post("/")
    async def watch(request: Request) -> None:
        seen.append(await request.body())
        seen.append((await request.receive())["type"])
        raise ClientDisconnect

    answer = await call(build_app(watching), "POST", "/", {"content-length": "1"}, [b"x"], hangs_up=True)
    assert seen == [b"x", "http.disconnect"]
    assert answer.messages == []


@pytest.mark.parametrize("headers", [{"x-pad": "x" * 16_400}, {f"x-{n}": "x" * 100 for n in range(170)}])
async def test_too_many_header_bytes_are_431(build_app: Any, call: Any, headers: dict[str, str]) -> None:
    answer = await call(build_app(router), "GET", "/remaining", headers)
    assert (answer.status, answer.problem["code"]) == (431, "headers_too_large")


async def test_a_long_address_counts_as_a_header(build_app: Any, call: Any) -> None:
    assert (await call(build_app(router), "GET", "/" + "x" * 17_000)).status == 431


async def test_a_refusal_before_the_body_closes_the_connection(build_app: Any, call: Any) -> None:
    answer = await call(build_app(router), "POST", "/echo", CHUNKED | {"x-deadline-ms": "soon"})
    assert (answer.status, answer.headers["connection"]) == (400, "close")


async def test_the_servers_own_deadline_applies_without_a_header(client: httpx.AsyncClient) -> None:
    assert 4 < float((await client.get("/remaining")).text) <= 5


@pytest.mark.parametrize(("given", "below"), [("1500", 1.5), ("9999999", 5), ("0001000", 1)])
async def test_a_shorter_deadline_is_honoured(client: httpx.AsyncClient, given: str, below: float) -> None:
    seconds = float((await client.get("/remaining", headers={"X-Deadline-Ms": given})).text)
    assert below - 1 < seconds <= below


@pytest.mark.parametrize("path", ["/forever", "/stubborn"])
@pytest.mark.parametrize("given", ["20", "0"])
async def test_a_missed_deadline_is_504(client: httpx.AsyncClient, path: str, given: str) -> None:
    answer = await client.get(path, headers={"X-Deadline-Ms": given})
    assert (answer.status_code, code(answer)) == (504, "deadline_exceeded")


@pytest.mark.parametrize("given", ["", "-1", "1.5", "1e3", "soon", "12345678"])
async def test_a_malformed_deadline_is_400(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/remaining", headers={"X-Deadline-Ms": given})
    assert (answer.status_code, code(answer)) == (400, "bad_request")
    assert answer.json()["errors"][0]["pointer"] == "#header/X-Deadline-Ms"


async def test_a_timeout_of_the_applications_own_is_no_missed_deadline(client: httpx.AsyncClient) -> None:
    answer = await client.get("/own-timeout")
    assert (answer.status_code, code(answer)) == (500, "internal_error")


async def test_a_body_in_pieces_is_in_time_or_cut(build_app: Any, call: Any) -> None:
    streaming = APIRouter()

    @streaming.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> Any:
            yield b"first"
            await asyncio.Event().wait()

        return StreamingResponse(chunks())

    with pytest.raises(TimeoutError):  # begun, so the server has to cut the connection
        await call(build_app(streaming, deadline_seconds=0.05), "GET", "/stream")


async def test_above_the_limit_of_requests_at_once_the_next_is_503(build_app: Any, call: Any) -> None:
    waiting, begun, release = APIRouter(), asyncio.Event(), asyncio.Event()

    @waiting.get("/wait")
    async def wait() -> None:
        begun.set()
        await release.wait()

    app: FastAPI = build_app(waiting, limit_concurrency=1)
    first = asyncio.create_task(call(app, "GET", "/wait"))
    await begun.wait()
    refused = await call(app, "GET", "/wait")
    assert (refused.status, refused.problem["code"], refused.headers["retry-after"]) == (503, "unavailable", "1")
    assert (await call(app, "GET", "/livez")).status == 200
    release.set()
    assert (await first).status == 200
    assert (await call(app, "GET", "/wait")).status == 200
