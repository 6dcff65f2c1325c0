"""What every answer has, whoever gave it: CORS, compression, request ids, probes, traces."""

import gzip
from typing import Any

import httpx
import pytest

from shop_common.testing import recorded_spans

PAGE = "https://shop.example"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "if-match"}
EXPOSED = {
    "Consistency-Token",
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
} | {
    "Section-Status",
    "Cache-Status",
    "Server-Timing",
    "X-Request-Id",
}
USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


async def test_pages_of_configured_origins_may_call_and_read(open_gateway: Any, bearer: dict[str, str]) -> None:
    gateway = await open_gateway(cors={"origins": [PAGE]})
    preflight = await gateway.options(f"/v1/users/{USER_ID}", headers=PREFLIGHT)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "If-Match" in preflight.headers["access-control-allow-headers"]
    response = await gateway.get("/v1/orders", headers={**bearer, "Origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    assert set(response.headers["access-control-expose-headers"].split(", ")) == EXPOSED
    assert "Origin" in response.headers["vary"]
    assert "access-control-allow-credentials" not in response.headers


async def test_pages_can_read_errors_too_also_those_of_the_last_resort(
    open_gateway: Any, bearer: dict[str, str]
) -> None:
    gateway = await open_gateway(cors={"origins": [PAGE]})
    for headers in ({}, {"X-Deadline-Ms": "never"}, {**bearer, "X-Deadline-Ms": "0"}):
        response = await gateway.get("/v1/orders", headers={"Origin": PAGE, **headers})
        assert response.status_code in {400, 401, 504}
        assert response.headers["access-control-allow-origin"] == PAGE


async def test_other_pages_are_refused_with_a_problem(open_gateway: Any) -> None:
    gateway = await open_gateway(cors={"origins": [PAGE]})
    for changed in ({"Origin": "https://evil.example"}, {"Access-Control-Request-Method": "TRACE"}):
        refused = await gateway.options("/v1/me", headers=PREFLIGHT | changed)
        assert (refused.status_code, refused.json()["code"]) == (400, "cors_refused")
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["request_id"]
    response = await gateway.get("/v1/me", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers


async def test_no_origin_may_call_by_default(gateway: httpx.AsyncClient) -> None:
    preflight = await gateway.options("/v1/me", headers=PREFLIGHT)
    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in preflight.headers


async def test_answers_of_a_kilobyte_are_compressed_for_those_who_want_it(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    page = {"items": [{"id": number} for number in range(100)], "next_cursor": None}
    orders.on("GET /v1/orders", act.answer(page))
    async with gateway.stream("GET", "/v1/orders", headers={**bearer, "Accept-Encoding": "gzip"}) as response:
        sent = b"".join([chunk async for chunk in response.aiter_raw()])
    assert (response.headers["content-encoding"], response.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert int(response.headers["content-length"]) == len(sent)
    assert b'{"id": 99}' in gzip.decompress(sent)
    assert len(sent) < 1000
    plain = await gateway.get("/v1/orders", headers={**bearer, "Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    board = await gateway.get("/v1/me/dashboard", headers={**bearer, "Accept-Encoding": "gzip"})
    assert board.headers["content-encoding"] == "gzip"
    assert len(board.json()["orders"]["items"]) == 100


async def test_small_answers_are_not_compressed(gateway: httpx.AsyncClient, bearer: dict[str, str]) -> None:
    response = await gateway.get("/v1/orders", headers={**bearer, "Accept-Encoding": "gzip"})
    assert "content-encoding" not in response.headers


async def test_it_is_ready_and_live_whatever_is_down(open_gateway: Any, restartable: Any) -> None:
    nowhere = restartable.url
    gateway = await open_gateway(users_url=nowhere, orders_url=nowhere, redis={"url": nowhere.replace("http", "redis")})
    for path in ("/livez", "/readyz"):
        assert (await gateway.get(path)).status_code == 200
    health = (await gateway.get("/health")).json()
    assert health["status"] == "degraded", "it says what it does without"
    assert set(health["checks"]) == {"kafka", "redis"}
    assert (await gateway.post("/v1/auth/token")).status_code == 502


async def test_metrics_are_not_public(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.get("/metrics")).status_code == 404


async def test_every_answer_has_its_id_and_its_time(gateway: httpx.AsyncClient, bearer: dict[str, str]) -> None:
    for path in ("/v1/orders", "/nowhere"):
        response = await gateway.get(path, headers={**bearer, "X-Request-Id": "mine"})
        assert response.headers["x-request-id"] == "mine"
        assert float(response.headers["x-process-time"]) > 0


async def test_a_recorded_request_has_a_span_per_call_onward(
    gateway: httpx.AsyncClient, users: Any, orders: Any, bearer: dict[str, str]
) -> None:
    with recorded_spans() as exporter:
        await gateway.get("/v1/me/dashboard", headers={**bearer, **SAMPLED})
        spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {
        "GET /v1/me/dashboard",
        "gateway → users GET /v1/users/{user_id}",
        "gateway → users GET /v1/users/{user_id}/stats",
        "gateway → orders GET /v1/orders",
    }
    server = spans.pop("GET /v1/me/dashboard")
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
    for name, call in spans.items():
        assert call.kind.name == "CLIENT"
        assert call.parent is not None
        assert call.parent.span_id == server.context.span_id
        attributes = dict(call.attributes or {})
        assert str(attributes["peer.service"]) in name
        assert attributes["http.response.status_code"] == 200
        assert USER_ID not in str(attributes)
    asked = orders.last("/v1/orders").headers["traceparent"]
    assert asked.split("-")[2] == f"{spans['gateway → orders GET /v1/orders'].context.span_id:016x}"


async def test_a_failed_call_is_an_error_in_the_trace(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.broken(b""))
    with recorded_spans() as exporter:
        await gateway.get("/v1/orders", headers={**bearer, **SAMPLED})
        calls = [span for span in exporter.get_finished_spans() if span.kind.name == "CLIENT"]
    assert [call.status.status_code.name for call in calls] == ["ERROR", "ERROR"], "each try is a span"
    assert {dict(call.attributes or {})["error.type"] for call in calls} == {"UpstreamUnreachable"}


async def test_an_unrecorded_request_creates_no_span(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str]
) -> None:
    with recorded_spans() as exporter:
        await gateway.get("/v1/orders", headers={**bearer, "traceparent": SAMPLED["traceparent"][:-1] + "0"})
        assert exporter.get_finished_spans() == ()
    assert orders.last("/v1/orders").headers["traceparent"].split("-")[1] == SAMPLED["traceparent"].split("-")[1]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_the_document_is_public(path: str, gateway: httpx.AsyncClient) -> None:
    response = await gateway.get(path)
    assert response.status_code == 200
    assert "ratelimit" in response.headers
