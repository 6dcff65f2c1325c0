"""The routes of orders: what each answers to its owner, to strangers, and to nonsense."""

import asyncio
import uuid
from typing import Any

import pytest

from shop_common.mongo import Database
from shop_common.testing import TokenIssuer
from shop_orders.models import User
from shop_orders.service import OrderService

BODY = {"items": [{"sku": "a", "quantity": 1, "unit_price": {"amount": 1, "currency": "EUR"}}]}
INJECTIONS = ['{"$gt": ""}', "[$ne]=x", "$where", "a\x00b", "null"]


async def known(service: OrderService, user_id: str, *, active: bool = True, version: int = 1) -> None:
    await service.follow_user(User(user_id, active, version), "test")


async def test_an_order_of_an_active_user_is_confirmed_at_once(shop: Any, service: OrderService, user_id: str) -> None:
    await known(service, user_id)
    answer = await shop.place(user_id, quantity=3, amount=250)
    order = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/orders/{order['id']}"
    assert answer.headers["ETag"] == '"2"'
    assert "Idempotency-Replayed" not in answer.headers
    assert order["status"] == "confirmed"
    assert order["user_id"] == user_id
    assert order["total"] == {"amount": 750, "currency": "EUR"}
    assert order["created_at"].endswith("Z")
    assert (await shop.get(user_id, f"/{order['id']}")).json() == order
    assert set(order) == {"id", "user_id", "status", "items", "total", "version", "created_at", "updated_at"}


async def test_an_order_of_an_unknown_user_waits_and_of_a_deactivated_one_is_rejected(
    shop: Any, service: OrderService, user_id: str
) -> None:
    assert (await shop.place(user_id)).json()["status"] == "pending"
    stranger = str(uuid.uuid4())
    await known(service, stranger, active=False)
    rejected = await shop.place(stranger)
    assert (rejected.status_code, rejected.json()["status"], rejected.json()["version"]) == (201, "rejected", 2)


async def test_the_largest_order_has_an_exact_total(shop: Any, user_id: str) -> None:
    items = [{"sku": f"S{n}", "quantity": 1000, "unit_price": {"amount": 10**9, "currency": "JPY"}} for n in range(100)]
    headers = shop.bearer(user_id) | {"Idempotency-Key": "largest"}
    answer = await shop.client.post("/v1/orders", headers=headers, json={"items": items})
    assert answer.json()["total"] == {"amount": 10**14, "currency": "JPY"}
    assert (await shop.get(user_id, f"/{answer.json()['id']}")).json() == answer.json()


@pytest.mark.parametrize(
    ("fault", "pointer"),
    [
        ({"sku": ""}, "sku"),
        ({"sku": "a b"}, "sku"),
        ({"sku": "a\n"}, "sku"),
        ({"sku": "a" * 65}, "sku"),
        ({"sku": {"$gt": ""}}, "sku"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": 1001}, "quantity"),
        ({"quantity": "1"}, "quantity"),
        ({"quantity": {"$gt": 0}}, "quantity"),
        ({"amount": -1}, "unit_price/amount"),
        ({"amount": 0.5}, "unit_price/amount"),
        ({"amount": True}, "unit_price/amount"),
        ({"amount": 10**9 + 1}, "unit_price/amount"),
        ({"amount": 10**30}, "unit_price/amount"),
        ({"amount": {"$gt": 0}}, "unit_price/amount"),
        ({"currency": "EUX"}, "unit_price/currency"),
        ({"currency": "eur"}, "unit_price/currency"),
        ({"currency": {"$ne": "EUR"}}, "unit_price/currency"),
    ],
)
async def test_a_bad_item_names_the_field_at_fault(shop: Any, user_id: str, fault: Any, pointer: str) -> None:
    answer = await shop.place(user_id, **fault)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/items/0/{pointer}"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/items"),
        ({"items": []}, "#/items"),
        ({"items": [{}] * 101}, "#/items"),
        ({"items": {"$gt": ""}}, "#/items"),
        ({"items": [{"$where": "1"}]}, "#/items/0/$where"),
        ({"items": [], "user_id": {"$gt": ""}}, "#/user_id"),
        ({"items": [], "status": "paid"}, "#/status"),
    ],
)
async def test_a_bad_order_names_the_field_at_fault(shop: Any, user_id: str, body: Any, pointer: str) -> None:
    headers = shop.bearer(user_id) | {"Idempotency-Key": "k"}
    answer = await shop.client.post("/v1/orders", headers=headers, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


async def test_one_currency_per_order(shop: Any, user_id: str, database: Database) -> None:
    items = [
        {"sku": "a", "quantity": 1, "unit_price": {"amount": 1, "currency": currency}} for currency in ("EUR", "USD")
    ]
    headers = shop.bearer(user_id) | {"Idempotency-Key": "k"}
    answer = await shop.client.post("/v1/orders", headers=headers, json={"items": items})
    assert (answer.status_code, answer.json()["code"]) == (422, "mixed_currencies")
    assert await database["orders"].find_one({"_id": str(uuid.uuid5(uuid.UUID(user_id), "k"))}) is None


@pytest.mark.parametrize("key", ["", "with space", "ü", "x" * 256, "tab\t."])
async def test_a_key_must_be_visible_ascii(shop: Any, user_id: str, key: str) -> None:
    headers = shop.bearer(user_id) | {"Idempotency-Key": key.encode("latin-1")}
    answer = await shop.client.post("/v1/orders", headers=headers, json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_not_valid")
    order = (await shop.place(user_id)).json()
    for action in ("pay", "cancel"):
        moved = await shop.client.post(f"/v1/orders/{order['id']}/{action}", headers=headers | {"If-Match": '"1"'})
        assert (moved.status_code, moved.json()["code"]) == (400, "idempotency_key_not_valid")


async def test_an_order_needs_a_key(shop: Any, user_id: str) -> None:
    answer = await shop.client.post("/v1/orders", headers=shop.bearer(user_id), json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


async def test_two_keys_are_none(shop: Any, user_id: str) -> None:
    headers = [*shop.bearer(user_id).items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await shop.client.post("/v1/orders", headers=headers, json=BODY)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_not_valid")


async def test_the_same_key_is_the_same_order(shop: Any, service: OrderService, user_id: str) -> None:
    first = await shop.place(user_id, "k" * 255)
    await known(service, user_id)
    again = await shop.place(user_id, "k" * 255)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert (again.json()["status"], again.headers["ETag"]) == ("confirmed", '"2"')
    other = await shop.place(user_id, "k" * 255, quantity=9)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    stranger = await shop.place(str(uuid.uuid4()), "k" * 255)
    assert stranger.json()["id"] != first.json()["id"]


async def test_fifty_at_once_with_one_key_are_one_order(
    shop: Any, service: OrderService, database: Database, user_id: str
) -> None:
    await known(service, user_id)
    answers = await asyncio.gather(*(shop.place(user_id, "same") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    documents = await database["orders"].find({"user_id": user_id}).to_list(10)
    assert [[entry["type"] for entry in document["outbox"]] for document in documents] == [
        ["orders.order_placed.v1", "orders.order_confirmed.v1"]
    ]


async def test_pay_then_no_more_moves(shop: Any, service: OrderService, user_id: str) -> None:
    await known(service, user_id)
    order = (await shop.place(user_id)).json()
    paid = await shop.move(user_id, order, "pay")
    assert (paid.status_code, paid.json()["status"], paid.headers["ETag"]) == (200, "paid", '"3"')
    for action in ("pay", "cancel"):
        answer = await shop.move(user_id, paid.json(), action)
        assert (answer.status_code, answer.json()["code"]) == (409, "order_state_conflict")
        stale = await shop.move(user_id, order, action)
        assert (stale.status_code, stale.headers["ETag"]) == (412, '"3"')


async def test_a_pending_order_is_cancelled_but_not_paid(shop: Any, user_id: str) -> None:
    order = (await shop.place(user_id)).json()
    assert (await shop.move(user_id, order, "pay")).status_code == 409
    cancelled = await shop.move(user_id, order, "cancel")
    assert (cancelled.json()["status"], cancelled.json()["version"]) == ("cancelled", 2)


@pytest.mark.parametrize(("given", "status"), [(None, 428), ("", 400), ("2", 400), ('W/"2"', 400), ("*", 400)])
async def test_a_move_names_the_version_it_saw(
    shop: Any, service: OrderService, user_id: str, given: str | None, status: int
) -> None:
    await known(service, user_id)
    order = (await shop.place(user_id)).json()
    headers = shop.bearer(user_id) | ({} if given is None else {"If-Match": given})
    for action in ("pay", "cancel"):
        answer = await shop.client.post(f"/v1/orders/{order['id']}/{action}", headers=headers)
        assert answer.status_code == status


async def test_of_many_payments_at_once_one_is_made(
    shop: Any, service: OrderService, database: Database, user_id: str
) -> None:
    await known(service, user_id)
    order = (await shop.place(user_id)).json()
    answers = await asyncio.gather(*(shop.move(user_id, order, "pay") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    document = await database["orders"].find_one({"_id": order["id"]})
    assert document is not None
    assert [entry["version"] for entry in document["outbox"]] == [1, 2, 3]


async def test_a_move_with_a_key_is_made_once_and_answered_alike(
    shop: Any, service: OrderService, user_id: str
) -> None:
    await known(service, user_id)
    order = (await shop.place(user_id)).json()
    answers = await asyncio.gather(*(shop.move(user_id, order, "pay", Idempotency_Key="p") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert (await shop.move(user_id, order, "cancel", Idempotency_Key="p")).status_code == 412


async def test_pay_against_cancel_has_one_winner(shop: Any, service: OrderService, user_id: str) -> None:
    await known(service, user_id)
    for _ in range(10):
        order = (await shop.place(user_id)).json()
        answers = await asyncio.gather(*(shop.move(user_id, order, action) for action in ("pay", "cancel")))
        assert sorted(answer.status_code for answer in answers) == [200, 412]
        winner = next(answer.json()["status"] for answer in answers if answer.status_code == 200)
        assert (await shop.get(user_id, f"/{order['id']}")).json()["status"] == winner


async def test_a_read_of_the_version_one_has_is_304(shop: Any, user_id: str) -> None:
    order = (await shop.place(user_id)).json()
    for given in ('"1"', 'W/"1"', '"7", "1"', "*"):
        headers = shop.bearer(user_id) | {"If-None-Match": given}
        answer = await shop.client.get(f"/v1/orders/{order['id']}", headers=headers)
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", '"1"')
    for given in ('"2"', "1", "nonsense"):
        headers = shop.bearer(user_id) | {"If-None-Match": given}
        assert (await shop.client.get(f"/v1/orders/{order['id']}", headers=headers)).status_code == 200


async def test_a_strangers_order_is_not_there(shop: Any, service: OrderService, user_id: str) -> None:
    await known(service, user_id)
    order = (await shop.place(user_id)).json()
    stranger = str(uuid.uuid4())
    nowhere = {"id": str(uuid.uuid4()), "version": 2}
    for target in (order, nowhere):
        answers = [
            await shop.get(stranger, f"/{target['id']}"),
            await shop.move(stranger, target, "pay"),
            await shop.move(stranger, target, "cancel"),
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert {answer.json()["detail"] for answer in answers} == {"There is no such order"}
    assert (await shop.get(stranger, user_id=user_id)).status_code == 404
    assert (await shop.get(stranger)).json() == {"items": [], "next_cursor": None}
    admin = await shop.get(stranger, f"/{order['id']}", admin=True)
    assert admin.json() == order


async def test_an_administrator_may_move_a_users_order(shop: Any, service: OrderService, user_id: str) -> None:
    await known(service, user_id)
    order = (await shop.place(user_id)).json()
    headers = shop.bearer(str(uuid.uuid4()), admin=True) | {"If-Match": '"2"'}
    answer = await shop.client.post(f"/v1/orders/{order['id']}/cancel", headers=headers)
    assert (answer.status_code, answer.json()["user_id"]) == (200, user_id)


@pytest.mark.parametrize("how", ["none", "foreign", "expired", "wrong audience"])
async def test_every_route_wants_a_token(shop: Any, issuer: TokenIssuer, user_id: str, how: str) -> None:
    tokens = {
        "foreign": TokenIssuer().token(user_id),
        "expired": issuer.token(user_id, exp=1),
        "wrong audience": issuer.token(user_id, aud="elsewhere"),
    }
    headers = {"Authorization": f"Bearer {tokens[how]}"} if how in tokens else {}
    path = f"/v1/orders/{uuid.uuid4()}"
    answers = [
        await shop.client.get("/v1/orders", headers=headers),
        await shop.client.get(path, headers=headers),
        await shop.client.post(f"{path}/pay", headers=headers),
        await shop.client.post(f"{path}/cancel", headers=headers),
        await shop.client.post("/v1/orders", headers=headers, json=BODY),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert all(answer.headers["WWW-Authenticate"].startswith("Bearer") for answer in answers)


@pytest.mark.parametrize("text", INJECTIONS)
async def test_operators_of_the_database_are_only_text(shop: Any, user_id: str, text: str) -> None:
    await shop.place(user_id)
    refused = [
        await shop.get(user_id, user_id=text),
        await shop.get(user_id, status=text),
        await shop.get(user_id, limit=text),
        await shop.client.get("/v1/orders?user_id[$gt]=", headers=shop.bearer(user_id)),
        await shop.client.get("/v1/orders?status[$ne]=paid", headers=shop.bearer(user_id)),
        await shop.get(user_id, f"/{text}".replace("$where", "%24where").replace("\x00", "%00")),
    ]
    assert {answer.status_code for answer in refused} == {422}
    cursor = await shop.get(user_id, cursor=text)
    assert (cursor.status_code, cursor.json()["code"]) == (400, "bad_cursor")
    if text.isprintable() and " " not in text:
        replayed = [(await shop.place(user_id, text)).json()["id"] for _ in range(2)]
        assert replayed[0] == replayed[1]


async def test_unknown_filters_are_refused(shop: Any, user_id: str) -> None:
    answer = await shop.get(user_id, state="paid")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#query/state")


async def test_a_broken_database_is_503(shop: Any, user_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo.errors import AutoReconnect  # noqa: PLC0415 - only this test makes one

    from shop_orders.store.orders import OrderStore  # noqa: PLC0415 - as above

    async def lost(*_: object) -> None:
        raise AutoReconnect("connection closed")

    monkeypatch.setattr(OrderStore, "find", lost)
    answer = await shop.get(user_id, f"/{uuid.uuid4()}")
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "unavailable", "1")
