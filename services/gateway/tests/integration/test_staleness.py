"""When something is wrong: what is answered from before, that it says so, and who is told to go."""

import asyncio
from typing import Any

import httpx

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
BOARD = f"/v1/users/{USER_ID}/dashboard"
PROFILE, STATISTICS = f"GET /v1/users/{USER_ID}", f"GET /v1/users/{USER_ID}/stats"
TINY = 1e-6


def age(fresh: float, revalidate: float, error: float) -> dict[str, float]:
    return {"fresh_seconds": fresh, "revalidate_seconds": revalidate, "error_seconds": error}


async def test_an_owner_that_fails_is_answered_for_from_before_and_it_is_said(
    open_gateway: Any, users: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    gateway = await open_gateway(cache=age(TINY, TINY, 600))
    first = await gateway.get(BOARD, headers=bearer)
    orders.on("GET /v1/orders", act.problem(500, "internal_error"))
    users.on(PROFILE, act.broken(b""))
    users.on(STATISTICS, act.problem(404, "user_not_found"))
    response = await gateway.get(BOARD, headers=bearer)
    board = response.json()
    assert response.headers["section-status"] == "user=stale, orders=stale, stats=failed", "a 404 is an answer"
    assert (board["user"], board["orders"]) == (first.json()["user"], first.json()["orders"])
    section = board["_sections"]["user"]
    assert (section["state"], section["problem"]["code"]) == ("stale", "upstream_unreachable")
    assert section["as_of"] == first.json()["_sections"]["user"]["as_of"]
    assert board["_sections"]["orders"]["problem"]["status"] == 500
    assert response.headers["cache-control"] == "no-store"
    assert "etag" not in response.headers


async def test_one_that_is_late_too(open_gateway: Any, orders: Any, bearer: dict[str, str], act: Any) -> None:
    gateway = await open_gateway(cache=age(TINY, TINY, 600), deadlines={"section_seconds": 0.2})
    await gateway.get(BOARD, headers=bearer)
    orders.on("GET /v1/orders", act.silence())
    section = (await gateway.get(BOARD, headers=bearer)).json()["_sections"]["orders"]
    assert (section["state"], section["problem"]["status"]) == ("stale", 504)
    impatient = await gateway.get(BOARD, headers={**bearer, "X-Deadline-Ms": "100"})
    assert impatient.json()["_sections"]["orders"]["state"] == "stale"


async def test_strict_handling_takes_nothing_from_before(
    open_gateway: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    gateway = await open_gateway(cache=age(TINY, TINY, 600))
    await gateway.get(BOARD, headers=bearer)
    orders.on("GET /v1/orders", act.problem(500, "internal_error"))
    response = await gateway.get(BOARD, headers={**bearer, "Prefer": "handling=strict"})
    assert (response.status_code, response.json()["code"]) == (502, "upstream_failed")


async def test_nor_does_one_who_wants_it_live_or_it_is_too_old(
    open_gateway: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    patient, strict = await open_gateway(cache=age(TINY, TINY, 600)), await open_gateway(cache=age(TINY, TINY, TINY))
    for gateway in (patient, strict):
        await gateway.get(BOARD, headers=bearer)
    orders.on("GET /v1/orders", act.problem(500, "internal_error"))
    live = await patient.get(BOARD, headers={**bearer, "Cache-Control": "no-cache"})
    for response in (live, await strict.get(BOARD, headers=bearer)):
        assert response.headers["section-status"] == "user=fresh, orders=failed, stats=fresh"


async def test_what_is_a_little_too_old_is_answered_and_asked_for_meanwhile(
    open_gateway: Any, users: Any, orders: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    gateway = await open_gateway(cache=age(TINY, 600, TINY))
    await gateway.get(BOARD, headers=bearer)
    held = hold()
    users.on(PROFILE, act.answer({"id": USER_ID, "version": 4}, 200, 'ETag: "4"', held=held))
    response = await gateway.get(BOARD, headers=bearer)
    assert response.headers["section-status"] == "user=stale, orders=stale, stats=stale"
    assert (response.headers["cache-control"], "etag" in response.headers) == ("no-store", False)
    assert response.json()["_sections"]["user"]["problem"] is None
    await held.reached(1)
    for _ in range(5):
        await gateway.get(BOARD, headers=bearer)
    held.open()
    async with asyncio.timeout(30):
        while (await gateway.get(BOARD, headers=bearer)).json()["user"].get("version") != 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    asked = [seen for seen in users.seen if seen.target == f"/v1/users/{USER_ID}"]
    assert len(asked) < 5, "one question for all who came meanwhile"


async def test_many_who_ask_at_once_are_one_question(
    open_gateway: Any, users: Any, orders: Any, bearer: dict[str, str], act: Any, hold: Any, issuer: Any
) -> None:
    # However slowly they come: half of the first one's time has not gone, nor half of the time for which it is fresh.
    gateway = await open_gateway(cache=age(600, 600, 600), deadlines={"dashboard_seconds": 50, "section_seconds": 50})
    held = hold()
    users.on(PROFILE, act.answer({"id": USER_ID}, held=held))
    stay = [asyncio.create_task(gateway.get(BOARD, headers=bearer)) for _ in range(20)]
    await held.reached(1)
    gone = asyncio.create_task(gateway.get(BOARD, headers=bearer))
    another = {"Authorization": f"Bearer {issuer.token(USER_ID, jti='another')}"}
    other = asyncio.create_task(gateway.get(BOARD, headers=another))
    await held.reached(1)
    gone.cancel()
    held.open()
    assert {(await each).status_code for each in [*stay, other]} == {200}
    asked = [seen.headers["authorization"] for seen in users.seen if seen.target == f"/v1/users/{USER_ID}"]
    assert len(asked) == len(set(asked)) == 2, "one for each who vouches for it"


async def test_a_question_that_ends_too_soon_is_not_waited_for(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any, hold: Any
) -> None:
    held = hold()
    users.on(PROFILE, act.answer({"id": USER_ID}, held=held))
    impatient = asyncio.create_task(gateway.get(BOARD, headers={**bearer, "X-Deadline-Ms": "300"}))
    await held.reached(1)
    patient = asyncio.create_task(gateway.get(BOARD, headers=bearer))
    await held.reached(1)
    assert (await impatient).status_code == 504
    held.open()
    assert (await patient).status_code == 200
