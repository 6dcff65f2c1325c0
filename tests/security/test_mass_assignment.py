"""What a client may not decide about itself, wherever it writes it; and what an answer may not say."""

import uuid
from typing import Any

import httpx
import jwt
import pytest

ITEM = {"sku": "tea-1", "quantity": 1, "unit_price": {"amount": 450, "currency": "EUR"}}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json", "If-Match": '"1"'}
OF_USERS: dict[str, Any] = {
    "role": "admin",
    "is_admin": True,
    "is_active": False,
    "version": 9,
    "id": str(uuid.UUID(int=1)),
    "password_hash": "$argon2id$",
    "created_at": "2020-01-01T00:00:00Z",
    "updated_at": "2020-01-01T00:00:00Z",
    "__proto__": {"role": "admin"},
    "": 1,
}
OF_ORDERS: dict[str, Any] = {
    "user_id": str(uuid.UUID(int=1)),
    "status": "paid",
    "total": {"amount": 0, "currency": "EUR"},
    "id": str(uuid.UUID(int=1)),
    "version": 9,
    "created_at": "2020-01-01T00:00:00Z",
    "outbox": [],
    "applied": [],
    "fingerprint": "",
    "_id": "1",
    "$set": {"status": "paid"},
}


def account() -> dict[str, Any]:
    tag = uuid.uuid4().hex[:12]
    return {"email": f"{tag}@example.com", "username": f"name-{tag}", "password": "long enough"}


async def test_nobody_registers_as_something_else(gateway: httpx.AsyncClient) -> None:
    body = account()
    for field, value in OF_USERS.items():
        refused = await gateway.post("/v1/users", json=body | {field: value})
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed"), field
    assert (await gateway.post("/v1/users", json=body)).json()["role"] == "customer"


async def test_nobody_patches_what_is_not_theirs_to_set(gateway: httpx.AsyncClient, ada: Any) -> None:
    before = (await gateway.get("/v1/me", headers=ada.bearer)).json()
    for field, value in {**OF_USERS, "password": "another one"}.items():
        for body in ({field: value}, {"full_name": "Changed", field: value}):
            answer = await gateway.patch(f"/v1/users/{ada.id}", json=body, headers=ada.bearer | MERGE_PATCH)
            assert answer.status_code == 422, field
    query = await gateway.patch(f"/v1/users/{ada.id}?role=admin", content=b"{}", headers=ada.bearer | MERGE_PATCH)
    assert (query.status_code, query.json()["role"]) == (200, "customer")
    assert (await gateway.get("/v1/me", headers=ada.bearer)).json() == before


@pytest.mark.parametrize("field", OF_ORDERS)
async def test_nobody_writes_more_of_an_order_than_its_items(field: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    key = {"Idempotency-Key": f"with {field}".replace(" ", "-")}
    for body in (
        {"items": [ITEM], field: OF_ORDERS[field]},
        {"items": [ITEM | {field: OF_ORDERS[field]}]},
        {"items": [ITEM | {"unit_price": ITEM["unit_price"] | {field: OF_ORDERS[field]}}]},  # type: ignore[operator] # a dict
    ):
        refused = await gateway.post("/v1/orders", json=body, headers=ada.bearer | key)
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    taken = await gateway.get(f"/v1/orders/{uuid.uuid5(uuid.UUID(ada.id), key['Idempotency-Key'])}", headers=ada.bearer)
    assert taken.status_code == 404, "none of them was placed"


async def test_a_move_takes_nothing_from_its_body(gateway: httpx.AsyncClient, ada: Any) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    order = (await gateway.post("/v1/orders", json={"items": [ITEM]}, headers=ada.bearer | key)).json()
    body = {"status": "paid", "total": {"amount": 1, "currency": "EUR"}, "user_id": str(uuid.uuid4())}
    version = {"If-Match": f'"{order["version"]}"'}
    moved = await gateway.post(f"/v1/orders/{order['id']}/cancel", json=body, headers=ada.bearer | version)
    if moved.status_code == 412:  # confirmed meanwhile
        version = {"If-Match": moved.headers["etag"]}
        moved = await gateway.post(f"/v1/orders/{order['id']}/cancel", json=body, headers=ada.bearer | version)
    changed = {name for name, value in moved.json().items() if order[name] != value}
    assert (moved.json()["status"], changed - {"status", "version", "updated_at"}) == ("cancelled", set())


async def test_a_login_grants_what_the_account_has(gateway: httpx.AsyncClient, ada: Any) -> None:
    form = {"username": ada.email, "password": ada.password, "role": "admin", "scope": "admin", "sub": "1"}
    granted = await gateway.post("/v1/auth/token", data=form)
    claims = jwt.decode(granted.json()["access_token"], options={"verify_signature": False})
    assert (claims["role"], claims["sub"]) == ("customer", ada.id)
    assert set(claims) == {"iss", "aud", "sub", "role", "iat", "exp", "jti"}, "no personal data in a token"


async def test_answers_have_the_fields_of_the_document_and_no_others(
    gateway: httpx.AsyncClient, ada: Any, document: Any
) -> None:
    def declared(schema: str) -> set[str]:
        return set(document["components"]["schemas"][schema]["properties"])

    key = {"Idempotency-Key": uuid.uuid4().hex}
    placed = await gateway.post("/v1/orders", json={"items": [ITEM]}, headers=ada.bearer | key)
    assert set(placed.json()) == declared("OrderOut")
    listed = (await gateway.get("/v1/orders", headers=ada.bearer)).json()
    assert set(listed["items"][0]) == declared("OrderOut")
    board = (await gateway.get("/v1/me/dashboard", headers=ada.bearer)).json()
    assert set(board["user"]) == declared("UserOut")
    assert set(board["orders"]["items"][0]) == declared("OrderOut")
    assert not {"password", "password_hash", "fingerprint", "outbox"} & (declared("UserOut") | declared("OrderOut"))
