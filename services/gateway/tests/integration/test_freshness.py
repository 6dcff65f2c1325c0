"""Dashboards from memory: as fast as that, and never older than what the topics, a write or a token tell."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from shop_common.testing import until

BOARD = "/v1/me/dashboard"
FRESH = "user=fresh, orders=fresh, stats=fresh"
MANY = {"requests": 100_000, "window_seconds": 60}
LONG = dict.fromkeys(("fresh_seconds", "proven_seconds", "revalidate_seconds", "error_seconds"), 600)

Tell = Callable[..., Awaitable[int]]
Open = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
def profile(ada: str) -> str:
    return f"GET /v1/users/{ada}"


@pytest.fixture
def statistics(ada: str) -> str:
    return f"GET /v1/users/{ada}/stats"


@pytest.fixture(autouse=True)
def answers(users: Any, orders: Any, act: Any, ada: str, profile: str, statistics: str) -> None:
    users.on(profile, act.answer({"id": ada, "version": 1}, 200, 'ETag: "1"'))
    users.on(statistics, act.answer({"orders": 0}))
    orders.on("GET /v1/orders", act.answer({"items": []}))


@pytest.fixture
def open_listening(open_gateway: Open, kafka_bootstrap: str, tell: Tell) -> Open:
    """A gateway that hears of changes, and is patient with what it has read; `cache=…` changes that."""
    prefix = f"{uuid.uuid4()}:"

    async def start(rate_limit: Any = MANY, **cache: Any) -> httpx.AsyncClient:
        gateway: httpx.AsyncClient = await open_gateway(
            kafka={"bootstrap_servers": kafka_bootstrap},
            cache=LONG | {"key_prefix": prefix, "redis_seconds": 30} | cache,
            rate_limit=rate_limit | {"key_prefix": prefix},
        )
        resources = gateway._transport.app.state.resources  # type: ignore[attr-defined] # the gateway under test

        async def is_told() -> bool:
            return bool(resources.dashboards._levels.is_told())

        await until(is_told)
        return gateway

    return start


async def is_heard(gateway: httpx.AsyncClient, user_id: str, owner: str, offset: int) -> None:
    """Wait until the gateway has heard of this user's record."""
    resources = gateway._transport.app.state.resources  # type: ignore[attr-defined] # the gateway under test

    async def is_there() -> bool:
        return bool(resources.freshness._recent.offsets(user_id).get(f"{owner}.events.v1", -1) >= offset)

    await until(is_there)


def asked(*upstreams: Any) -> list[str]:
    """What was asked of owners since the last look, keys apart."""
    seen = [f"{each.method} {each.target.partition('?')[0]}" for upstream in upstreams for each in upstream.seen]
    for upstream in upstreams:
        upstream.seen.clear()
    return sorted(each for each in seen if "jwks" not in each)


async def test_the_second_answer_is_from_memory(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str], ada: str
) -> None:
    gateway = await open_listening()
    first = await gateway.get(BOARD, headers=as_ada)
    assert first.headers["cache-status"] == 'shop-gateway; fwd=miss; detail="user orders stats"'
    assert len(asked(users, orders)) == 3
    for path in (BOARD, f"/v1/users/{ada}/dashboard", f"/v1/users/{ada.upper()}/dashboard"):
        again = await gateway.get(path, headers=as_ada)
        assert (again.status_code, again.headers["cache-status"]) == (200, "shop-gateway; hit")
        assert (again.headers["section-status"], again.headers["etag"]) == (FRESH, first.headers["etag"])
        assert (again.headers["cache-control"], again.headers["vary"]) == ("private, no-cache", "Authorization")
        assert 0 <= int(again.headers["age"]) < 60
        assert again.json()["user"] == first.json()["user"]
        assert again.json()["_sections"]["user"]["state"] == "fresh"
    assert asked(users, orders) == []


async def test_a_304_asks_nobody_and_costs_nothing(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str]
) -> None:
    gateway = await open_listening({"requests": 100, "window_seconds": 86_400})
    first = await gateway.get(BOARD, headers=as_ada)
    asked(users, orders)
    left = (await gateway.get(BOARD, headers=as_ada)).headers["ratelimit"]
    for tag in (first.headers["etag"], f'"x", {first.headers["etag"]}', "*"):
        unchanged = await gateway.get(BOARD, headers={**as_ada, "If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["etag"] == first.headers["etag"]
    assert unchanged.headers["ratelimit"].partition(";t=")[0] == left.partition(";t=")[0]
    other = await gateway.get(BOARD, headers={**as_ada, "If-None-Match": '"x"'})
    assert other.status_code == 200
    assert asked(users, orders) == []


async def test_the_first_answer_may_be_a_304_too(open_listening: Open, as_ada: dict[str, str]) -> None:
    tag = (await (await open_listening()).get(BOARD, headers=as_ada)).headers["etag"]
    unchanged = await (await open_listening()).get(BOARD, headers={**as_ada, "If-None-Match": tag})
    assert unchanged.status_code == 304, "the same data has the same tag everywhere"


async def test_an_event_drops_what_it_makes_stale_and_nothing_else(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str], ada: str, tell: Tell, act: Any, profile: str
) -> None:
    gateway = await open_listening()
    await gateway.get(BOARD, headers=as_ada)
    asked(users, orders)
    await tell("users.user_updated.v1", str(uuid.uuid4()), 2, user_id=str(uuid.uuid4()))
    users.on(profile, act.answer({"id": ada, "version": 2}, 200, 'ETag: "2"'))
    await tell("users.user_updated.v1", ada, 2)

    async def is_new() -> bool:
        return bool((await gateway.get(BOARD, headers=as_ada)).json()["user"]["version"] == 2)

    await until(is_new)
    assert asked(users, orders) == [profile], "once, and of one"
    await tell("orders.order_paid.v1", str(uuid.uuid4()), 1)

    async def asked_again() -> bool:
        await gateway.get(BOARD, headers=as_ada)
        return "GET /v1/orders" in asked(users, orders)

    await until(asked_again)


async def test_what_was_read_before_an_event_is_answered_and_not_kept(
    open_listening: Open, users: Any, as_ada: dict[str, str], ada: str, tell: Tell, act: Any, hold: Any, profile: str
) -> None:
    gateway = await open_listening()
    held = hold()
    users.on(profile, act.answer({"id": ada, "version": 1}, 200, 'ETag: "1"', held=held))
    slow = asyncio.create_task(gateway.get(BOARD, headers=as_ada))
    await held.reached(1)
    await tell("users.user_updated.v1", ada, 2)
    await _heard(gateway, tell, users, ada)
    held.open()
    assert (await slow).json()["user"]["version"] == 1
    users.on(profile, act.answer({"id": ada, "version": 2}, 200, 'ETag: "2"'))
    assert (await gateway.get(BOARD, headers=as_ada)).json()["user"]["version"] == 2


async def _heard(gateway: httpx.AsyncClient, tell: Tell, users: Any, ada: str) -> None:
    """Wait until an event that was sent after all others has been heard: all of one user are in one partition."""
    await is_heard(gateway, ada, "users", await tell("users.user_updated.v1", ada, 1))


async def test_statistics_are_kept_only_when_they_have_all_that_was_heard(
    open_listening: Open,
    users: Any,
    orders: Any,
    as_ada: dict[str, str],
    ada: str,
    tell: Tell,
    act: Any,
    statistics: str,
) -> None:
    gateway = await open_listening()
    await gateway.get(BOARD, headers=as_ada)
    offset = await tell("orders.order_placed.v1", str(uuid.uuid4()), 1)
    users.on(statistics, act.answer({"orders": 0}, 200, f"Projected-Offset: {offset - 1}"))

    async def is_dropped() -> bool:
        await gateway.get(BOARD, headers=as_ada)
        return statistics in asked(users, orders)

    await is_heard(gateway, ada, "orders", offset)
    for _ in range(3):
        assert await is_dropped(), "the projection is behind: it is asked for each time"
    users.on(statistics, act.answer({"orders": 1}, 200, f"Projected-Offset: {offset}"))
    board = await gateway.get(BOARD, headers=as_ada)
    assert board.json()["stats"] == {"orders": 1}
    assert "projected-offset" not in board.headers
    asked(users, orders)
    assert not await is_dropped(), "it has caught up"


async def test_statistics_that_are_behind_are_not_kept_for_one_who_was_not_asked_for_before(
    open_listening: Open,
    users: Any,
    orders: Any,
    as_ada: dict[str, str],
    ada: str,
    tell: Tell,
    act: Any,
    statistics: str,
) -> None:
    gateway = await open_listening()
    offset = await tell("orders.order_placed.v1", str(uuid.uuid4()), 1)
    await is_heard(gateway, ada, "orders", offset)
    for _ in range(2):
        await gateway.get(BOARD, headers=as_ada)
        assert statistics in asked(users, orders)


async def test_a_write_is_seen_at_once_and_its_token_elsewhere(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str], ada: str, act: Any, profile: str
) -> None:
    here, there = await open_listening(), await open_listening(shared_seconds=0.001)
    for gateway in (here, there):
        await gateway.get(BOARD, headers=as_ada)
    users.on(profile, act.answer({"id": ada, "version": 2}, 200, 'ETag: "2"'))
    users.on(f"PATCH /v1/users/{ada}", act.answer({"id": ada, "version": 2}, 200, 'ETag: "2"'))
    written = await here.patch(f"/v1/users/{ada}", headers=as_ada, content=b"{}")
    token = {"Consistency-Token": written.headers["consistency-token"]}
    asked(users, orders)
    assert (await here.get(BOARD, headers=as_ada)).json()["user"]["version"] == 2
    assert (await here.get(BOARD, headers=as_ada | token)).headers["cache-status"] == "shop-gateway; hit"
    assert asked(users, orders) == [profile]

    assert (await there.get(BOARD, headers=as_ada)).json()["user"]["version"] == 1, "its event is still to come"
    assert (await there.get(BOARD, headers=as_ada | token)).json()["user"]["version"] == 2
    assert asked(users, orders) == [profile]
    assert (await there.get(BOARD, headers=as_ada | token)).headers["cache-status"] == "shop-gateway; hit"


async def test_a_token_of_an_order_asks_for_orders(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str], ada: str, act: Any
) -> None:
    here, there = await open_listening(), await open_listening(shared_seconds=0.001)
    for gateway in (here, there):
        await gateway.get(BOARD, headers=as_ada)
    order = {"id": str(uuid.uuid4()), "user_id": ada, "version": 1}
    orders.on("POST /v1/orders", act.answer(order, 201, 'ETag: "1"'))
    orders.on("GET /v1/orders", act.answer({"items": [order]}))
    placed = await here.post("/v1/orders", headers={**as_ada, "Idempotency-Key": "k"}, content=b"{}")
    asked(users, orders)
    for gateway, headers in (
        (here, as_ada),
        (there, as_ada | {"Consistency-Token": placed.headers["consistency-token"]}),
    ):
        assert (await gateway.get(BOARD, headers=headers)).json()["orders"]["items"] == [order]
        assert asked(users, orders) == ["GET /v1/orders"]


async def test_a_bad_token_is_400(open_listening: Open, as_ada: dict[str, str]) -> None:
    gateway = await open_listening()
    response = await gateway.get(BOARD, headers={**as_ada, "Consistency-Token": "made-up"})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (400, "#header/Consistency-Token")


async def test_another_gateway_finds_it_in_redis(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str]
) -> None:
    here, there = await open_listening(), await open_listening()
    first = await here.get(BOARD, headers=as_ada)
    asked(users, orders)

    async def is_shared() -> bool:
        await there.get(BOARD, headers={**as_ada, "X-Request-Id": "again"})
        there_asked = asked(users, orders)
        return not there_asked

    await until(is_shared)
    again = await there.get(BOARD, headers=as_ada)
    assert again.json()["user"] == first.json()["user"]


async def test_no_cache_asks_the_owners(open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str]) -> None:
    gateway = await open_listening()
    await gateway.get(BOARD, headers=as_ada)
    asked(users, orders)
    live = await gateway.get(BOARD, headers={**as_ada, "Cache-Control": "max-age=0, no-cache"})
    assert live.headers["cache-status"] == 'shop-gateway; fwd=request; detail="user orders stats"'
    assert len(asked(users, orders)) == 3


async def test_who_may_not_see_it_gets_nothing_from_memory(
    open_listening: Open, users: Any, orders: Any, as_ada: dict[str, str], ada: str, issuer: Any, act: Any, profile: str
) -> None:
    gateway = await open_listening()
    await gateway.get(BOARD, headers=as_ada)
    admin = await gateway.get(f"/v1/users/{ada}/dashboard", headers=issuer.bearer(str(uuid.uuid4()), "admin"))
    assert (admin.status_code, admin.headers["cache-status"]) == (200, "shop-gateway; hit")
    users.on(profile, act.problem(404, "user_not_found"))
    eve = await gateway.get(f"/v1/users/{ada}/dashboard", headers=issuer.bearer(str(uuid.uuid4())))
    assert (eve.status_code, eve.json()["code"]) == (404, "user_not_found")
    assert (await gateway.get(BOARD, headers=as_ada)).headers["cache-status"] == "shop-gateway; hit"
