"""Lists of orders: complete, in order, page by page, and never somebody else's."""

import asyncio
import uuid
from datetime import datetime
from typing import Any

import pytest

from shop_common.mongo import Database
from shop_orders.models import User
from shop_orders.service import OrderService


async def pages(shop: Any, caller: str, *, admin: bool = False, **query: Any) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = (await shop.get(caller, admin=admin, **query, **cursor)).json()
        found.append(answer["items"])
        if answer["next_cursor"] is None:
            return found
        cursor = {"cursor": answer["next_cursor"]}


@pytest.fixture
async def two_users(shop: Any, service: OrderService, database: Database) -> tuple[str, str]:
    """Each with seven orders, several in the same millisecond, some of each status."""
    users = (str(uuid.uuid4()), str(uuid.uuid4()))
    for user_id in users:
        await asyncio.gather(*(shop.place(user_id) for _ in range(4)))
        await service.follow_user(User(user_id, True, 1), "test")  # noqa: FBT003 - is_active
        orders = [(await shop.place(user_id)).json() for _ in range(3)]
        await shop.move(user_id, orders[0], "pay")
        same = (await database["orders"].find_one({"_id": orders[1]["id"]}) or {})["created_at"]
        await database["orders"].update_one({"_id": orders[2]["id"]}, {"$set": {"created_at": same}})
    return users


def age(order: dict[str, Any]) -> tuple[datetime, str]:
    """Times as times: of a whole second there is no fraction, so their texts sort otherwise."""
    return datetime.fromisoformat(order["created_at"]), order["id"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_are_the_whole_list_newest_first(shop: Any, two_users: tuple[str, str], limit: int) -> None:
    found = await pages(shop, two_users[0], limit=limit)
    assert {len(page) for page in found[:-1]} <= {limit}
    orders = [order for page in found for order in page]
    assert len({order["id"] for order in orders}) == len(orders) == 7
    assert {order["user_id"] for order in orders} == {two_users[0]}
    assert orders == sorted(orders, key=age, reverse=True)


async def test_filters_and_who_may_use_them(shop: Any, two_users: tuple[str, str]) -> None:
    mine, theirs = two_users
    paid = await pages(shop, mine, status="paid", limit=2)
    assert [order["status"] for page in paid for order in page] == ["paid"]
    confirmed = await pages(shop, mine, user_id=mine, status="confirmed", limit=2)
    assert len([order for page in confirmed for order in page]) == 6
    everybody = [order for page in await pages(shop, mine, admin=True, limit=5) for order in page]
    assert {order["user_id"] for order in everybody} == {mine, theirs}
    assert everybody == sorted(everybody, key=age, reverse=True)
    all_paid = [order for page in await pages(shop, mine, admin=True, status="paid", limit=1) for order in page]
    assert {order["user_id"] for order in all_paid} == {mine, theirs}
    one = [order for page in await pages(shop, mine, admin=True, user_id=theirs) for order in page]
    assert {order["user_id"] for order in one} == {theirs}
    assert (await shop.get(mine, user_id=theirs)).status_code == 404
    assert (await shop.get(mine, user_id=mine.upper())).status_code == 200


async def test_a_cursor_belongs_to_its_filters_and_its_owner(shop: Any, two_users: tuple[str, str]) -> None:
    mine, theirs = two_users
    cursor = (await shop.get(mine, limit=2)).json()["next_cursor"]
    assert (await shop.get(mine, limit=50, cursor=cursor)).status_code == 200
    assert (await shop.get(mine, user_id=mine, cursor=cursor)).status_code == 200
    for user_id, query in ((mine, {"status": "paid"}), (theirs, {})):
        answer = await shop.get(user_id, cursor=cursor, **query)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")
    assert (await shop.get(mine, admin=True, cursor=cursor)).status_code == 400
    changed = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    assert (await shop.get(mine, cursor=changed)).status_code == 400


async def test_orders_placed_meanwhile_do_not_shift_the_pages(shop: Any, two_users: tuple[str, str]) -> None:
    first = (await shop.get(two_users[0], limit=3)).json()
    await shop.place(two_users[0])
    rest = (await shop.get(two_users[0], limit=100, cursor=first["next_cursor"])).json()
    assert len({order["id"] for order in first["items"] + rest["items"]}) == 7
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.5", "x"])
async def test_the_limit_has_bounds(shop: Any, user_id: str, limit: str) -> None:
    assert (await shop.get(user_id, limit=limit)).status_code == 422
