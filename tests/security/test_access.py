"""Who reaches what, for every operation of the public document: one without a case here fails.

Object level: another's is 404, not to be told from what never was. Function level: administrators' routes are 403.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

DOCUMENT = json.loads((Path(__file__).parents[2] / "services/gateway/src/shop_gateway/openapi.json").read_bytes())
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
ITEMS = [{"sku": "tea-1", "quantity": 1, "unit_price": {"amount": 450, "currency": "EUR"}}]
IF_MATCH = {"If-Match": '"1"'}
VARYING = {"x-request-id", "x-process-time", "server-timing", "ratelimit", "date"}


@dataclass(frozen=True, slots=True)
class Case:
    """`object`: the path names one that belongs to somebody. `self`: it is about whoever asks; `stream`, without
    an end. `admin`: for administrators. `public`: without a token, for the reason given."""

    kind: Literal["object", "self", "stream", "admin", "public"]
    reason: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Of a request that its owner could make, as httpx takes it."""


CASES: dict[str, Case] = {
    "get_jwks": Case("public", "public keys, for whoever checks tokens"),
    "log_in": Case("public", "gives tokens to who knows the password"),
    "refresh_token": Case("public", "the refresh token in the body is the credential"),
    "log_out": Case("public", "the refresh token in the body is the credential"),
    "register_user": Case("public", "makes an account of one's own"),
    "list_users": Case("admin"),
    "get_me": Case("self"),
    "get_my_dashboard": Case("self"),
    "stream_my_events": Case("stream", "that nobody else is told, the gateway's own tests of its streams show"),
    "list_orders": Case("self"),
    "place_order": Case("self", body={"json": {"items": ITEMS}, "headers": {"Idempotency-Key": "mine"}}),
    "get_user": Case("object"),
    "change_user": Case(
        "object",
        body={
            "content": b'{"full_name": "Taken Over"}',
            "headers": {**IF_MATCH, "Content-Type": "application/merge-patch+json"},
        },
    ),
    "deactivate_user": Case("object", body={"headers": IF_MATCH}),
    "change_password": Case("object", body={"json": {"new_password": "taken over"}, "headers": IF_MATCH}),
    "get_user_stats": Case("object"),
    "get_dashboard": Case("object"),
    "get_order": Case("object"),
    "pay_order": Case("object", body={"headers": IF_MATCH}),
    "cancel_order": Case("object", body={"headers": IF_MATCH}),
}


def of_kind(kind: str) -> list[str]:
    return [name for name in OPERATIONS if name in CASES and CASES[name].kind == kind]


def test_every_operation_has_a_case() -> None:
    assert set(OPERATIONS) == set(CASES), "say in CASES who may call it; the tests below then try the others"


def test_what_needs_no_token_is_public_for_a_reason() -> None:
    without = {name for name, (_, _, operation) in OPERATIONS.items() if not operation.get("security")}
    assert without == set(of_kind("public"))
    assert all(CASES[name].reason for name in without)


def test_whatever_has_an_id_in_its_path_is_somebodys() -> None:
    assert {name for name, (_, path, _) in OPERATIONS.items() if "{" in path} == set(of_kind("object"))


async def call(gateway: httpx.AsyncClient, name: str, ids: Mapping[str, str], who: Mapping[str, str]) -> httpx.Response:
    method, path, _ = OPERATIONS[name]
    body = dict(CASES[name].body)
    return await gateway.request(method, path.format(**ids), **body | {"headers": {**body.get("headers", {}), **who}})


async def place(gateway: httpx.AsyncClient, person: Any) -> dict[str, Any]:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    placed = await gateway.post("/v1/orders", json={"items": ITEMS}, headers=person.bearer | key)
    assert placed.status_code == 201, placed.text
    order: dict[str, Any] = placed.json()
    return order


def seen(answer: httpx.Response) -> tuple[Any, ...]:
    """All of an answer that could tell two apart."""
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    return answer.status_code, answer.json() | {"request_id": ""}, headers


@pytest.mark.parametrize("name", of_kind("object"))
async def test_anothers_is_as_absent_as_what_never_was(
    name: str, gateway: httpx.AsyncClient, ada: Any, eve: Any
) -> None:
    order = await place(gateway, ada)
    hers = await call(gateway, name, {"user_id": ada.id, "order_id": order["id"]}, eve.bearer)
    nobodys = await call(gateway, name, {"user_id": str(uuid.uuid4()), "order_id": str(uuid.uuid4())}, eve.bearer)
    assert hers.status_code == 404
    assert seen(hers) == seen(nobodys)
    assert ada.id not in hers.text

    user = (await gateway.get("/v1/me", headers=ada.bearer)).json()
    assert (user["version"], user["full_name"]) == (1, ada.full_name)
    order_after = (await gateway.get(f"/v1/orders/{order['id']}", headers=ada.bearer)).json()
    assert order_after["status"] in {"pending", "confirmed"}
    outdated = ada.bearer | {"If-Match": '"99"'}
    own = await call(gateway, name, {"user_id": ada.id, "order_id": order["id"]}, outdated)
    assert own.status_code in {200, 412}, "its owner reaches it, or this test would prove nothing"


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].kind != "public"])
@pytest.mark.parametrize("credentials", ["", "Bearer", "Bearer a.b.c", "Basic YWRtaW46YWRtaW4="])
async def test_without_a_good_token_it_is_401(name: str, credentials: str, gateway: httpx.AsyncClient) -> None:
    ids = {"user_id": str(uuid.uuid4()), "order_id": str(uuid.uuid4())}
    answer = await call(gateway, name, ids, {"Authorization": credentials} if credentials else {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("name", of_kind("self"))
async def test_it_is_about_whoever_asks_and_nobody_else(
    name: str, gateway: httpx.AsyncClient, ada: Any, eve: Any
) -> None:
    order = await place(gateway, ada)
    answer = await call(gateway, name, {}, eve.bearer)
    assert answer.is_success
    assert not [text for text in (ada.id, ada.email, ada.username, order["id"]) if text in answer.text]


@pytest.mark.parametrize("name", of_kind("admin"))
async def test_it_is_for_administrators(name: str, gateway: httpx.AsyncClient, eve: Any, admin: Any) -> None:
    refused = await call(gateway, name, {}, eve.bearer)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await call(gateway, name, {}, admin)).status_code == 200


async def test_a_filter_is_no_way_to_anothers_orders(gateway: httpx.AsyncClient, ada: Any, eve: Any) -> None:
    order = await place(gateway, ada)
    answers = [
        await gateway.get("/v1/orders", params={"user_id": user_id}, headers=eve.bearer)
        for user_id in (ada.id, str(uuid.uuid4()))
    ]
    assert answers[0].status_code == 404
    assert seen(answers[0]) == seen(answers[1])
    twice = await gateway.get(f"/v1/orders?user_id={eve.id}&user_id={ada.id}", headers=eve.bearer)
    assert order["id"] not in twice.text


async def test_a_cursor_is_no_way_to_anothers_orders(gateway: httpx.AsyncClient, ada: Any, eve: Any) -> None:
    orders = [await place(gateway, ada) for _ in range(2)]
    page = (await gateway.get("/v1/orders?limit=1", headers=ada.bearer)).json()
    stolen = await gateway.get("/v1/orders", params={"cursor": page["next_cursor"]}, headers=eve.bearer)
    assert (stolen.status_code, stolen.json()["code"]) == (400, "bad_cursor")
    assert not any(order["id"] in stolen.text for order in orders)


async def test_an_idempotency_key_is_ones_own(gateway: httpx.AsyncClient, ada: Any, eve: Any) -> None:
    key = {"Idempotency-Key": "the-same"}
    placed = [
        (await gateway.post("/v1/orders", json={"items": ITEMS}, headers=who.bearer | key)).json() for who in (ada, eve)
    ]
    assert placed[0]["id"] != placed[1]["id"]
    assert [order["user_id"] for order in placed] == [ada.id, eve.id]


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
async def test_methods_nobody_offered_do_nothing(method: str, gateway: httpx.AsyncClient, eve: Any) -> None:
    override = eve.bearer | {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE", "If-Match": '"1"'}
    answer = await gateway.request(method, f"/v1/users/{eve.id}", headers=override)
    assert answer.status_code in {400, 404, 405}
    assert (await gateway.get("/v1/me", headers=eve.bearer | {"X-HTTP-Method-Override": "DELETE"})).status_code == 200
    assert (await gateway.get("/v1/me", headers=eve.bearer)).json()["is_active"] is True


@pytest.mark.parametrize("path", ["/metrics", "/admin", "/debug", "/.env", "/v1/internal", "/redoc", "/v2/users"])
async def test_nothing_else_is_public(path: str, gateway: httpx.AsyncClient) -> None:
    assert (await gateway.get(path)).status_code == 404


async def test_the_document_served_is_the_one_tested_here(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.get("/openapi.json")).json() == DOCUMENT
