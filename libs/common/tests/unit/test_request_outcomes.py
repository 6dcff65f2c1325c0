"""What a request leaves behind: its id, its headers, one log line, bounded metrics, a span if it is sampled."""

import asyncio
import logging
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from shop_common import context
from shop_common.settings import TracingSettings
from shop_common.testing import open_app_client, recorded_spans
from shop_common.tracing import current_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
EVERYTHING = TracingSettings(endpoint="http://127.0.0.1:1", sample_ratio=1)
router = APIRouter(prefix="/things")


@router.get("/{number}")
async def read(number: int) -> dict[str, Any]:
    return {"request_id": context.request_id(), "traceparent": current_traceparent()}


@router.post("/broken")
async def broken() -> None:
    raise RuntimeError("a secret of the implementation")


@router.get("/cut/off")
async def cut_off() -> StreamingResponse:
    async def chunks() -> Any:
        yield b"begun"
        raise RuntimeError("too late for a problem")

    return StreamingResponse(chunks())


nested = APIRouter()
nested.include_router(router, prefix="/nested")


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


@pytest.fixture
def app(build_app: Any) -> FastAPI:
    app: FastAPI = build_app(router)
    app.include_router(nested, prefix="/deeply")
    app.router.routes.append(Route("/plain/{rest:path}", plain))
    return app


@pytest.fixture
async def client(app: FastAPI) -> Any:
    async with open_app_client(app) as client:
        yield client


def counted(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("shop_http_requests_total", labels) or 0


def label_sets() -> int:
    return sum(1 for metric in REGISTRY.collect() if metric.name == "shop_http_requests" for _ in metric.samples)


async def test_a_usable_request_id_is_kept(client: httpx.AsyncClient) -> None:
    answer = await client.get("/things/1", headers={"X-Request-Id": "Ab.c-1_2"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "Ab.c-1_2"


@pytest.mark.parametrize("given_id", ["", "x" * 65, "a b", "a\tb", "ä", 'a"b', "{}", "a%0ab", "../x"])
async def test_any_other_request_id_is_replaced(app: FastAPI, call: Any, given_id: str) -> None:
    answer = await call(app, "GET", "/things/1", {"X-Request-Id": given_id})
    new = answer.headers["x-request-id"]
    assert new != given_id
    assert len(new) == 32


async def test_nothing_of_a_request_outlives_it(app: FastAPI, call: Any) -> None:
    await call(app, "GET", "/things/1", SAMPLED | {"X-Request-Id": "inner"})
    assert (context.request_id(), context.remaining_seconds(), current_traceparent()) == ("", None, None)


async def test_every_answer_says_how_long_it_took(client: httpx.AsyncClient) -> None:
    for path in ("/things/1", "/nowhere", "/things/x", "/livez"):
        assert 0 <= float((await client.get(path)).headers["x-process-time"]) < 60


async def test_an_unforeseen_error_is_a_500_that_leaks_nothing(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.post("/things/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    [record] = [each for each in caplog.records if each.message == "unhandled error"]
    assert record.exc_info is not None
    assert "a secret of the implementation" in str(record.exc_info[1])


async def test_an_error_in_a_begun_answer_goes_to_the_server_and_is_counted(app: FastAPI, call: Any) -> None:
    before = counted("GET", "/things/cut/off", 500)
    with recorded_spans() as spans, pytest.raises(RuntimeError, match="too late"):
        await call(app, "GET", "/things/cut/off", SAMPLED)
    assert counted("GET", "/things/cut/off", 500) == before + 1
    [span] = spans.get_finished_spans()
    assert span.name == "GET /things/cut/off"
    assert span.status.status_code is StatusCode.ERROR


async def test_a_cancelled_request_is_counted_and_gives_its_place_back(build_app: Any, call: Any) -> None:
    waiting, begun = APIRouter(), asyncio.Event()

    @waiting.get("/wait-for-cancel")
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    app = build_app(waiting, limit_concurrency=1)
    request = asyncio.create_task(call(app, "GET", "/wait-for-cancel"))
    await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert counted("GET", "/wait-for-cancel", 500) == 1
    assert (await call(app, "GET", "/nowhere")).status == 404


async def test_a_client_that_hangs_up_is_a_499(app: FastAPI, call: Any) -> None:
    before = counted("POST", "unmatched", 499)
    await call(app, "POST", "/things/broken", {"transfer-encoding": "chunked"}, [None])
    assert counted("POST", "unmatched", 499) == before + 1


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/things/1", "/things/{number}"),
        ("/deeply/nested/things/1", "/deeply/nested/things/{number}"),
        ("/plain/a/b", "/plain/{rest:path}"),
        ("/livez", "/livez"),
        ("/docs", "/docs"),
        ("/nowhere/at/all", "unmatched"),
    ],
)
async def test_the_route_label_is_a_template(client: httpx.AsyncClient, path: str, route: str) -> None:
    with_status = (await client.get(path)).status_code
    assert counted("GET", route, with_status) >= 1


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ-", min_size=8, max_size=20), path=st.text(max_size=50))
async def test_garbage_makes_no_new_labels(app: FastAPI, call: Any, method: str, path: str) -> None:
    await call(app, "BREW-TEA", "/never/was")
    before = label_sets()
    assert (await call(app, method, "/never/" + path.encode(errors="replace").hex())).status == 404
    assert label_sets() == before


async def test_a_request_is_one_log_line_with_its_route(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.get("/things/17?token=secret")
    await client.get("/livez")
    [record] = [each for each in caplog.records if each.name == "shop.access"]
    fields = record.__dict__
    assert (fields["method"], fields["route"], fields["path"], fields["status"]) == (
        "GET",
        "/things/{number}",
        "/things/17",
        200,
    )
    assert fields["ms"] >= 0


async def test_a_long_path_is_cut_in_the_log(app: FastAPI, call: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await call(app, "GET", "/" + "x" * 100_000)
    [record] = [each for each in caplog.records if each.name == "shop.access"]
    assert len(record.__dict__["path"]) == 256


async def test_a_sampled_request_is_a_server_span_under_its_parent(client: httpx.AsyncClient) -> None:
    with recorded_spans() as spans:
        answer = await client.get("/things/1", headers=SAMPLED | {"X-Request-Id": "r1"})
    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("GET /things/{number}", SpanKind.SERVER)
    assert span.attributes == {
        "http.request.method": "GET",
        "http.route": "/things/{number}",
        "http.response.status_code": 200,
        "request.id": "r1",
    }
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert answer.json()["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_500_is_an_error_in_the_trace_and_a_404_is_not(client: httpx.AsyncClient) -> None:
    with recorded_spans() as spans:
        await client.post("/things/broken", headers=SAMPLED)
        await client.get("/nowhere", headers=SAMPLED)
    broken_span, missing_span = spans.get_finished_spans()
    assert broken_span.status.status_code is StatusCode.ERROR
    assert (missing_span.name, missing_span.status.status_code) == ("GET unmatched", StatusCode.UNSET)


async def test_an_unsampled_request_makes_no_span_but_passes_its_trace_on(client: httpx.AsyncClient) -> None:
    with recorded_spans() as spans:
        answer = await client.get("/things/1", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert spans.get_finished_spans() == ()
    assert answer.json()["traceparent"].startswith(f"00-{TRACE}-")
    assert answer.json()["traceparent"].endswith("-00")


async def test_the_ratio_decides_only_where_no_parent_did(build_app: Any, call: Any) -> None:
    app = build_app(router, tracing=EVERYTHING)
    with recorded_spans() as spans:
        await call(app, "GET", "/things/1")
        await call(app, "GET", "/things/2", {"traceparent": f"00-{TRACE}-{PARENT}-00"})
        await call(app, "GET", "/livez")
    assert [span.name for span in spans.get_finished_spans()] == ["GET /things/{number}"]


async def test_without_an_exporter_nothing_is_sampled(build_app: Any, call: Any) -> None:
    app = build_app(router, tracing=TracingSettings(sample_ratio=1))
    with recorded_spans() as spans:
        await call(app, "GET", "/things/1")
    assert spans.get_finished_spans() == ()


async def test_an_answer_may_come_without_headers(build_app: Any, call: Any) -> None:
    app: FastAPI = build_app()

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    app.mount("/bare", bare)
    answer = await call(app, "GET", "/bare/x")
    assert answer.status == 204
    assert set(answer.headers) == {"x-request-id", "x-process-time"}
