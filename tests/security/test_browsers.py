"""What an answer lets browsers, caches and other pages do."""

import uuid
from typing import Any

import httpx
import pytest

ITEM = {"sku": "tea-1", "quantity": 1, "unit_price": {"amount": 450, "currency": "EUR"}}
EVIL = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher"}


async def order_of(gateway: httpx.AsyncClient, person: Any, **headers: str) -> httpx.Response:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    return await gateway.post("/v1/orders", json={"items": [ITEM]}, headers=person.bearer | key | headers)


async def test_personal_answers_are_kept_by_nobody_else(gateway: httpx.AsyncClient, ada: Any, admin: Any) -> None:
    order = await order_of(gateway, ada)
    reads = ("/v1/me", f"/v1/users/{ada.id}", f"/v1/users/{ada.id}/stats", "/v1/me/dashboard", "/v1/orders")
    answers = [await gateway.get(path, headers=ada.bearer) for path in (*reads, order.headers["location"])]
    answers += [order, await gateway.get("/v1/users", headers=admin)]
    for answer in answers:
        assert answer.is_success
        directives = set(answer.headers["cache-control"].split(", "))
        assert directives in ({"private", "no-cache"}, {"no-store"}), answer.url
    tokens = await gateway.post("/v1/auth/token", data={"username": ada.email, "password": ada.password})
    assert tokens.headers["cache-control"] == "no-store"
    rotated = await gateway.post("/v1/auth/refresh", json={"refresh_token": tokens.json()["refresh_token"]})
    assert rotated.headers["cache-control"] == "no-store"


async def test_errors_are_kept_by_nobody(gateway: httpx.AsyncClient, ada: Any) -> None:
    answers = [
        await gateway.get("/v1/me"),
        await gateway.get("/nowhere"),
        await gateway.put("/v1/me"),
        await gateway.get(f"/v1/users/{uuid.uuid4()}", headers=ada.bearer),
        await gateway.get("/v1/users", headers=ada.bearer),
        await gateway.post("/v1/users", json={}),
        await gateway.get("/v1/me", headers={"X-Pad": "x" * 17_000}),
        await gateway.get("/v1/me", headers={"X-Deadline-Ms": "soon"}),
    ]
    for answer in answers:
        assert answer.is_error
        assert answer.headers["cache-control"] == "no-store", answer.url
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], answer.url
        assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_is_what_it_says_and_goes_into_no_frame(gateway: httpx.AsyncClient, ada: Any) -> None:
    for path in ("/v1/me", "/v1/me/dashboard", "/v1/orders", "/docs", "/openapi.json", "/.well-known/jwks.json"):
        answer = await gateway.get(path, headers=ada.bearer)
        assert answer.status_code == 200
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert not {"server", "x-powered-by", "set-cookie", "access-control-allow-origin"} & set(answer.headers)


async def test_public_keys_may_be_kept_for_less_than_a_new_one_is_published(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/.well-known/jwks.json")
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert all(set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"} for key in answer.json()["keys"])


async def test_an_address_is_never_made_of_what_a_client_says(gateway: httpx.AsyncClient, ada: Any) -> None:
    placed = await order_of(gateway, ada, **EVIL)
    assert placed.headers["location"] == f"/v1/orders/{placed.json()['id']}"
    for path in ("/v1/me", "/v1/users/", "//evil.example/v1/me", "/docs", "/openapi.json", "/nowhere"):
        url = str(gateway.base_url).rstrip("/") + path
        answer = await gateway.get(url, headers=ada.bearer | EVIL)
        assert not answer.is_redirect
        assert "evil.example" not in str(answer.headers)
        assert "evil.example" not in answer.text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost", "file://"])
async def test_no_page_may_read_unless_its_origin_is_configured(
    origin: str, gateway: httpx.AsyncClient, ada: Any
) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "if-match"}
    for answer in (
        await gateway.options(f"/v1/users/{ada.id}", headers=asks),
        await gateway.get("/v1/me", headers=ada.bearer | {"Origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
