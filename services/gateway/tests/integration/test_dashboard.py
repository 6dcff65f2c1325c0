"""The dashboard: gathered in parallel, whole or truthfully partial, within its deadlines."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from shop_gateway.schemas import SectionState

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
BOARD = f"/v1/users/{USER_ID}/dashboard"
LIVE = {"Cache-Control": "no-cache"}
"""Not together with others who ask the same."""
PROFILE, STATISTICS = f"GET /v1/users/{USER_ID}", f"GET /v1/users/{USER_ID}/stats"


@pytest.mark.parametrize("path", [BOARD, "/v1/me/dashboard"])
async def test_a_whole_dashboard(path: str, gateway: httpx.AsyncClient, bearer: dict[str, str], orders: Any) -> None:
    response = await gateway.get(path, headers={**bearer, "If-None-Match": '"1"'})
    board = response.json()
    assert response.status_code == 200
    assert list(board) == ["user", "orders", "stats", "_sections"]
    assert board["user"] == {"id": USER_ID, "email": "ada@example.com", "username": "ada"}
    assert board["orders"]["items"][0]["total"] == {"amount": 450, "currency": "EUR"}
    assert board["orders"]["next_cursor"] is None
    assert board["stats"] == {"orders": 1, "paid": 0, "cancelled": 0, "spent": []}
    for section in board["_sections"].values():
        state = SectionState.model_validate(section)
        assert (state.state, state.problem) == ("fresh", None)
        assert state.as_of is not None
        assert abs(state.as_of - datetime.now(UTC)) < timedelta(seconds=10)
    assert response.headers["section-status"] == "user=fresh, orders=fresh, stats=fresh"
    assert response.headers["cache-control"] == "private, no-cache"
    assert [entry.partition(";")[0] for entry in response.headers["server-timing"].split(", ")] == [
        "user",
        "orders",
        "stats",
        "total",
    ]
    asked = orders.last("/v1/orders")
    assert asked.target == f"/v1/orders?user_id={USER_ID}&limit=10"
    assert asked.headers["authorization"] == bearer["Authorization"]
    assert 0 < int(asked.headers["x-deadline-ms"]) <= 800
    assert "if-none-match" not in asked.headers


async def test_all_sections_are_under_way_at_once(
    gateway: httpx.AsyncClient, users: Any, orders: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    held = hold()
    users.on(PROFILE, act.answer({"id": USER_ID}, held=held))
    users.on(STATISTICS, act.answer({}, held=held))
    orders.on("GET /v1/orders", act.answer({"items": []}, held=held))
    request = asyncio.create_task(gateway.get(BOARD, headers=bearer))
    await held.reached(3)  # none of them has answered yet
    assert users.most_at_once + orders.most_at_once == 3
    held.open()
    assert (await request).headers["section-status"] == "user=fresh, orders=fresh, stats=fresh"


async def test_a_failed_optional_section_says_so_with_its_own_status(
    gateway: httpx.AsyncClient, users: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.problem(503, "unavailable"))
    users.on(STATISTICS, act.raw(b"HTTP/1.1 500 x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nOops"))
    response = await gateway.get(BOARD, headers=bearer)
    board = response.json()
    assert response.status_code == 200
    assert (board["user"]["id"], board["orders"], board["stats"]) == (USER_ID, None, None)
    assert board["_sections"]["orders"] == {
        "state": "failed",
        "as_of": None,
        "problem": {"status": 503, "code": "unavailable", "detail": "no: unavailable"},
    }
    assert board["_sections"]["stats"]["problem"]["code"] == "upstream_malformed"
    assert response.headers["section-status"] == "user=fresh, orders=failed, stats=failed"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [([1, 2], 200, "upstream_malformed"), ({}, 204, "upstream_malformed"), ([], 404, "upstream_error")],
)
async def test_an_optional_section_that_is_no_object_has_failed(
    document: Any, status: int, code: str, gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.answer(document, status))
    board = (await gateway.get(BOARD, headers=bearer)).json()
    assert (board["orders"], board["_sections"]["orders"]["problem"]["code"]) == (None, code)


async def test_a_slow_optional_section_costs_its_deadline_and_no_more(
    open_gateway: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.silence())
    gateway = await open_gateway(deadlines={"section_seconds": 0.2})
    started = time.monotonic()
    response = await gateway.get(BOARD, headers=bearer)
    assert time.monotonic() - started >= 0.2
    assert response.json()["_sections"]["orders"]["problem"]["status"] == 504
    assert response.json()["stats"] is not None
    assert int(orders.last("/v1/orders").headers["x-deadline-ms"]) <= 200


async def test_a_dead_optional_upstream_leaves_the_rest(
    open_gateway: Any, bearer: dict[str, str], restartable: Any
) -> None:
    gateway = await open_gateway(orders_url=restartable.url)
    response = await gateway.get(BOARD, headers=bearer)
    assert response.status_code == 200
    assert response.json()["_sections"]["orders"]["problem"]["code"] == "upstream_unreachable"


@pytest.mark.parametrize(
    ("behaviour", "status", "code"), [("unavailable", 502, "upstream_failed"), ("silence", 504, "upstream_deadline")]
)
async def test_strict_handling_gives_all_or_nothing(
    behaviour: str, status: int, code: str, open_gateway: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    gateway = await open_gateway(deadlines={"section_seconds": 0.2})
    strict = {**bearer, "Prefer": "handling=strict"}
    assert (await gateway.get(BOARD, headers=strict)).status_code == 200
    orders.on("GET /v1/orders", act.silence() if behaviour == "silence" else act.problem(503, "unavailable"))
    response = await gateway.get(BOARD, headers=strict)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert "orders" in response.json()["detail"]


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (401, "unauthenticated"), (503, "unavailable")])
async def test_what_the_required_section_is_refused_is_the_answer(
    status: int, code: str, gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(PROFILE, act.problem(status, code, "WWW-Authenticate: Bearer", "Retry-After: 3"))
    response = await gateway.get(BOARD, headers=bearer)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.headers["www-authenticate"], response.headers["retry-after"]) == ("Bearer", "3")


async def test_the_required_section_has_the_say_also_when_others_are_refused_first(
    gateway: httpx.AsyncClient, users: Any, orders: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    held = hold()
    users.on(PROFILE, act.problem(404, "user_not_found", held=held))
    users.on(STATISTICS, act.problem(404, "user_not_found"))
    orders.on("GET /v1/orders", act.problem(404, "user_not_found"))
    request = asyncio.create_task(gateway.get(BOARD, headers={**bearer, "Prefer": "handling=strict"}))
    await held.reached(1)
    assert (await gateway.get("/v1/orders", headers=bearer)).status_code == 404, "the others have been answered"
    held.open()
    assert ((await request).status_code, (await request).json()["code"]) == (404, "user_not_found")


async def test_a_refusal_of_the_required_section_waits_for_nobody(
    open_gateway: Any, users: Any, orders: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    gateway = await open_gateway(deadlines={"dashboard_seconds": 50, "section_seconds": 50})
    never = hold()
    orders.on("GET /v1/orders", act.answer({}, held=never))
    users.on(PROFILE, act.problem(404, "not_found"))
    async with asyncio.timeout(30):  # the section alone would take 50 s
        assert (await gateway.get(BOARD, headers=bearer)).status_code == 404


async def test_a_required_section_that_is_not_there_is_502_or_504(
    open_gateway: Any, users: Any, bearer: dict[str, str], restartable: Any, act: Any
) -> None:
    keys = f"{users.url}/.well-known/jwks.json"
    dead = await open_gateway(users_url=restartable.url, tokens={"jwks_url": keys})
    response = await dead.get(BOARD, headers=bearer)
    assert (response.status_code, response.json()["code"]) == (502, "upstream_unreachable")

    users.on(PROFILE, act.silence())
    slow = await open_gateway(deadlines={"section_seconds": 0.2})
    response = await slow.get(BOARD, headers=bearer)
    assert (response.status_code, response.json()["code"]) == (504, "upstream_deadline")


async def test_a_required_section_that_is_no_object_is_502(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(PROFILE, act.raw(b"HTTP/1.1 302 x\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"))
    response = await gateway.get(BOARD, headers=bearer)
    assert (response.status_code, response.json()["code"]) == (502, "upstream_malformed")


async def test_a_clients_shorter_deadline_still_gets_a_partial_answer_in_time(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.silence())
    response = await gateway.get(BOARD, headers={**bearer, "X-Deadline-Ms": "300"})
    assert (response.status_code, response.json()["orders"]) == (200, None)
    assert int(orders.last("/v1/orders").headers["x-deadline-ms"]) < 300


async def test_time_spent_before_the_gather_is_taken_from_it(
    open_gateway: Any, users: Any, bearer: dict[str, str]
) -> None:
    gateway = await open_gateway(deadlines={"dashboard_seconds": 0.000_001})
    response = await gateway.get(BOARD, headers=bearer)
    assert (response.status_code, response.json()["code"]) == (504, "upstream_deadline")
    assert [seen.target for seen in users.seen] == ["/.well-known/jwks.json"], "nobody was asked in vain"


async def test_it_needs_a_token_and_a_uuid(gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str]) -> None:
    assert (await gateway.get(BOARD)).status_code == (await gateway.get("/v1/me/dashboard")).status_code == 401
    response = await gateway.get("/v1/users/ada/dashboard", headers=bearer)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "#path/user_id")
    assert [seen.target for seen in users.seen] == ["/.well-known/jwks.json"]


async def test_cancelled_dashboards_leave_no_connection_behind(
    open_gateway: Any, users: Any, orders: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    gateway = await open_gateway(upstream={"max_connections": 6, "connect_seconds": 1})
    for _ in range(5):
        held = hold()
        orders.on("GET /v1/orders", act.answer({}, held=held))
        boards = [asyncio.create_task(gateway.get(BOARD, headers=bearer | LIVE)) for _ in range(3)]
        await held.reached(3)
        for task in boards:
            task.cancel()
        await asyncio.gather(*boards, return_exceptions=True)
        held.open()
    orders.on("GET /v1/orders", act.answer({"items": []}))
    good = []
    for _ in range(5):
        good += await asyncio.gather(*(gateway.get(BOARD, headers=bearer) for _ in range(4)))
    assert {response.headers["section-status"] for response in good} == {"user=fresh, orders=fresh, stats=fresh"}


def _observed(upstream: str, route: str, outcome: str) -> float:
    labels = {"upstream": upstream, "route": route, "outcome": outcome}
    return REGISTRY.get_sample_value("shop_gateway_upstream_seconds_count", labels) or 0.0


async def test_each_call_is_measured_by_upstream_route_and_outcome(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("GET /v1/orders", act.problem(500, "internal_error"))
    profile, statistics = "/v1/users/{user_id}", "/v1/users/{user_id}/stats"
    wanted = [("users", profile, "ok"), ("users", statistics, "ok"), ("orders", "/v1/orders", "server_error")]
    before = [_observed(*each) for each in wanted]
    await gateway.get(BOARD, headers=bearer)
    assert [_observed(*each) for each in wanted] == [count + 1 for count in before]
    orders.on("GET /v1/orders", act.broken(b""))
    before_unreachable = _observed("orders", "/v1/orders", "upstream_unreachable")
    await gateway.get(BOARD, headers=bearer)
    assert _observed("orders", "/v1/orders", "upstream_unreachable") == before_unreachable + 2, "it was tried again"
