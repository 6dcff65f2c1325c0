"""Upstreams that fail for a while: what is asked again, what is spared, and how it is found well again."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
BOARD = f"/v1/users/{USER_ID}/dashboard"
STATISTICS = f"GET /v1/users/{USER_ID}/stats"
ORDER = f"/v1/orders/{uuid.uuid4()}"


def _in_turn(*behaviours: Any) -> Any:
    """The first for the first request, and so on; the last for all that follow."""
    left = list(behaviours)

    async def behave(seen: Any, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(seen, writer)

    return behave


@pytest.mark.parametrize("first", ["reset", "502", "503"])
async def test_a_read_is_tried_again(
    first: str, gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    behaviour = act.broken(b"") if first == "reset" else act.problem(int(first), "no")
    orders.on(f"GET {ORDER}", _in_turn(behaviour, act.answer({"id": "1"})))
    assert (await gateway.get(ORDER, headers=bearer)).json() == {"id": "1"}
    assert len(orders.seen) == 2
    given = [int(seen.headers["x-deadline-ms"]) for seen in orders.seen]
    assert given[0] >= given[1], "the second try has what is left"


@pytest.mark.parametrize("status", [500, 504, 404, 429])
async def test_other_failures_are_not(
    status: int, gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on(f"GET {ORDER}", act.problem(status, "no"))
    assert (await gateway.get(ORDER, headers=bearer)).status_code == status
    assert len(orders.seen) == 1


async def test_one_that_fails_twice_is_not_tried_a_third_time(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on(f"GET {ORDER}", act.problem(503, "unavailable", "Retry-After: 7"))
    answer = await gateway.get(ORDER, headers=bearer)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert len(orders.seen) == 2


async def test_nor_is_one_with_too_little_time_left(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on(f"GET {ORDER}", act.problem(503, "unavailable"))
    assert (await gateway.get(ORDER, headers={**bearer, "X-Deadline-Ms": "90"})).status_code == 503
    assert len(orders.seen) == 1


@pytest.mark.parametrize(
    ("path", "key", "tries"), [("/v1/orders", "k", 2), ("/v1/orders", None, 1), ("/v1/users", "k", 1)]
)
async def test_a_write_is_tried_again_only_with_a_key_that_its_owner_heeds(
    path: str,
    key: str | None,
    tries: int,
    gateway: httpx.AsyncClient,
    users: Any,
    orders: Any,
    bearer: dict[str, str],
    act: Any,
) -> None:
    for upstream in (users, orders):
        upstream.on(f"POST {path}", _in_turn(act.broken(b""), act.answer({"id": "1"}, 201)))
    headers = {**bearer, **({"Idempotency-Key": key} if key else {})}
    answer = await gateway.post(path, headers=headers, json={})
    assert answer.status_code == (201 if tries == 2 else 502)
    seen = [seen for upstream in (users, orders) for seen in upstream.seen if seen.method == "POST"]
    assert len(seen) == tries
    assert {each.headers.get("idempotency-key") for each in seen} == {key}


async def test_retries_are_a_fifth_of_the_calls_at_most(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on(f"GET {ORDER}", _in_turn(*[act.problem(503, "no"), act.answer({})] * 10, act.problem(503, "no")))
    for _ in range(10):  # spends what was saved, and fails seldom enough for the breaker
        assert (await gateway.get(ORDER, headers=bearer)).status_code == 200
    orders.on(f"GET {ORDER}", act.answer({}))
    for _ in range(20):
        await gateway.get(ORDER, headers=bearer)
    before = len(orders.seen)
    orders.on(f"GET {ORDER}", act.problem(503, "no"))
    for _ in range(10):
        assert (await gateway.get(ORDER, headers=bearer)).status_code == 503
    assert 15 <= len(orders.seen) - before <= 18


async def test_a_circuit_opens_for_its_route_alone_and_closes_again(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(STATISTICS, act.problem(500, "internal_error"))
    for _ in range(20):
        assert (await gateway.get(BOARD, headers=bearer)).json()["_sections"]["stats"]["problem"]["status"] == 500
    asked = len(users.seen)
    board = (await gateway.get(BOARD, headers=bearer)).json()
    assert board["_sections"]["stats"]["problem"] == {
        "status": 503,
        "code": "circuit_open",
        "detail": "users has failed too often to be asked right now",
    }
    assert board["user"]["id"] == USER_ID, "the same upstream, another route"
    assert len(users.seen) == asked + 1
    spared = await gateway.get(f"/v1/users/{USER_ID}/stats", headers=bearer)
    assert (spared.status_code, spared.json()["code"]) == (503, "circuit_open")
    assert 1 <= int(spared.headers["retry-after"]) <= 5

    users.on(STATISTICS, act.answer({"orders": 1}))
    async with asyncio.timeout(30):
        while True:
            if not (await gateway.get(BOARD, headers=bearer)).headers["section-status"].endswith("failed"):
                break
            await asyncio.sleep(0.1)
        for _ in range(3):
            assert (await gateway.get(BOARD, headers=bearer)).json()["stats"] == {"orders": 1}
    labels = {"upstream": "users", "method": "GET", "route": "/v1/users/{user_id}/stats"}
    assert REGISTRY.get_sample_value("shop_gateway_breaker_state", labels) == 0


async def test_a_circuit_opens_too_where_every_reader_asks_for_itself(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(f"GET /v1/users/{USER_ID}", act.silence())
    live = {**bearer, "Cache-Control": "no-cache"}
    late = await asyncio.gather(*(gateway.get(BOARD, headers=live) for _ in range(25)))
    assert {(answer.status_code, answer.json()["code"]) for answer in late} == {(504, "upstream_deadline")}
    spared = await gateway.get(BOARD, headers=live)
    assert (spared.status_code, spared.json()["code"]) == (503, "circuit_open")


async def test_impatient_clients_open_no_circuit(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on(f"GET {ORDER}", act.silence())
    for _ in range(25):
        assert (await gateway.get(ORDER, headers={**bearer, "X-Deadline-Ms": "20"})).status_code == 504
    orders.on(f"GET {ORDER}", act.answer({"id": "1"}))
    assert (await gateway.get(ORDER, headers=bearer)).json() == {"id": "1"}


async def test_optional_sections_are_dropped_before_required_ones(
    open_gateway: Any, users: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    gateway = await open_gateway(
        upstream={"max_connections": 10}, deadlines={"dashboard_seconds": 50, "section_seconds": 50}
    )
    held = hold()
    users.on(STATISTICS, act.answer({}, held=held))
    bearer = bearer | {"Cache-Control": "no-cache"}  # else they would wait together
    waiting = [asyncio.create_task(gateway.get(BOARD, headers=bearer)) for _ in range(8)]
    await held.reached(8)
    board = (await gateway.get(BOARD, headers=bearer)).json()
    assert board["user"]["id"] == USER_ID, "a connection was left for it"
    assert board["_sections"]["stats"]["problem"]["code"] == "upstream_busy"
    held.open()
    assert [(await task).json()["stats"] for task in waiting] == [{}] * 8
