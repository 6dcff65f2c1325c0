"""Routes of one owner: what arrives upstream, what comes back, and who is let through."""

import asyncio
from typing import Any

import httpx
import pytest

from shop_common.testing import TokenIssuer
from shop_gateway.api import ROUTES, Forward

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
FORWARDED = [route for route in ROUTES if isinstance(route, Forward)]


def _target(route: Forward) -> str:
    return route.path.replace("{user_id}", USER_ID).replace("{order_id}", USER_ID)


@pytest.mark.parametrize("route", FORWARDED, ids=lambda route: f"{route.method} {route.path}")
async def test_each_route_goes_to_its_owner_and_no_other(
    route: Forward, gateway: httpx.AsyncClient, users: Any, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    owner, other = (users, orders) if route.owner == "users" else (orders, users)
    owner.on(f"{route.method} {_target(route)}", act.answer({"from": route.owner}, 200, 'ETag: "7"'))
    response = await gateway.request(route.method, _target(route), headers=bearer, content=b"")
    assert (response.status_code, response.json()) == (200, {"from": route.owner})
    assert response.headers["etag"] == '"7"'
    assert owner.last(_target(route)).method == route.method
    assert [seen for seen in other.seen if "jwks" not in seen.target] == []


@pytest.mark.parametrize("route", FORWARDED, ids=lambda route: f"{route.method} {route.path}")
async def test_only_public_routes_do_without_a_token(
    route: Forward, gateway: httpx.AsyncClient, users: Any, orders: Any, act: Any
) -> None:
    for upstream in (users, orders):
        upstream.on(f"{route.method} {_target(route)}", act.answer({}))
    response = await gateway.request(route.method, _target(route))
    if route.public:
        assert response.status_code == 200
    else:
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"
        assert users.seen == orders.seen == []


async def test_a_request_arrives_whole_and_clean(
    gateway: httpx.AsyncClient, orders: Any, bearer: dict[str, str], act: Any
) -> None:
    orders.on("POST /v1/orders", act.answer({"id": "1"}, 201, f"Location: {orders.url}/v1/orders/1", 'ETag: "1"'))
    sent = {
        **bearer,
        "Idempotency-Key": "k-1",
        "X-Request-Id": "req-1",
        "X-Deadline-Ms": "700",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "Cookie": "session=1",
        "X-Forwarded-For": "6.6.6.6",
        "X-Admin": "1",
    }
    response = await gateway.post("/v1/orders?a=%20b&c='é", json={"items": []}, headers=sent)
    seen = orders.last("/v1/orders")
    assert seen.body == b'{"items":[]}'
    assert seen.target == "/v1/orders?a=%20b&c='%C3%A9"
    assert seen.headers["authorization"] == bearer["Authorization"]
    assert (seen.headers["idempotency-key"], seen.headers["x-request-id"]) == ("k-1", "req-1")
    assert seen.headers["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert seen.headers["content-type"] == "application/json"
    assert 0 < int(seen.headers["x-deadline-ms"]) <= 700
    assert not {"cookie", "x-forwarded-for", "x-admin", "transfer-encoding"} & set(seen.headers)

    assert (response.status_code, response.headers["location"]) == (201, "/v1/orders/1")
    assert response.headers["x-request-id"] == "req-1"
    assert response.headers["server-timing"].startswith("orders;dur=")


async def test_an_answer_comes_back_clean(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    leaking = ("Set-Cookie: a=1", "Server: uvicorn", "X-Internal: 1", "Connection: close", "Cache-Control: no-store")
    users.on("GET /v1/me", act.answer({"id": USER_ID}, 200, *leaking))
    response = await gateway.get("/v1/me", headers=bearer)
    assert response.headers["cache-control"] == "no-store"
    assert not {"set-cookie", "server", "x-internal", "connection"} & set(response.headers)


async def test_a_problem_document_passes_as_it_is(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(f"DELETE /v1/users/{USER_ID}", act.problem(412, "precondition_failed", 'ETag: "4"'))
    users.on("GET /v1/users", act.problem(503, "unavailable", "Retry-After: 2"))
    stale = await gateway.delete(f"/v1/users/{USER_ID}", headers={**bearer, "If-Match": '"3"'})
    assert (stale.status_code, stale.json()["code"], stale.headers["etag"]) == (412, "precondition_failed", '"4"')
    assert stale.headers["content-type"] == "application/problem+json"
    assert users.last("/v1/users").headers["if-match"] == '"3"'
    busy = await gateway.get("/v1/users", headers=bearer)
    assert (busy.status_code, busy.json()["code"], busy.headers["retry-after"]) == (503, "unavailable", "2")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_stays_one(
    status: int, gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on("GET /v1/me", act.raw(f'HTTP/1.1 {status} x\r\nETag: "1"\r\n\r\n'.encode()))
    response = await gateway.get("/v1/me", headers={**bearer, "If-None-Match": '"1"'})
    assert (response.status_code, response.content, response.headers["etag"]) == (status, b"", '"1"')
    assert "content-length" not in response.headers
    assert "content-type" not in response.headers


async def test_what_is_not_in_the_table_is_not_there(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str]
) -> None:
    for path in ("/", "/v1", "/v1/users/", f"/v1/users/{USER_ID}/", "/metrics", "/v2/users", "/v1//users"):
        response = await gateway.get(path, headers=bearer)
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), path
        assert response.headers["content-type"] == "application/problem+json"
    assert [seen.target for seen in users.seen] == ["/.well-known/jwks.json"]


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "TRACE", "DELETE"])
async def test_another_method_is_told_which_there_are(method: str, gateway: httpx.AsyncClient) -> None:
    response = await gateway.request(method, "/v1/users")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST")
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "segment", ["x", "..", "%2e%2e", "..%2fmetrics", "1%00", f"{USER_ID}%0a", f"{USER_ID}%3f", "%ff"]
)
async def test_nothing_but_a_uuid_stands_for_an_id(
    segment: str, gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str]
) -> None:
    url = httpx.URL("http://test", raw_path=f"/v1/users/{segment}/stats".encode())
    response = await gateway.send(httpx.Request("GET", url, headers=bearer))
    assert response.status_code in {404, 422}
    assert response.json()["code"] in {"not_found", "validation_failed"}
    assert [seen.target for seen in users.seen] == ["/.well-known/jwks.json"]


async def test_a_header_sent_twice_is_refused(
    gateway: httpx.AsyncClient, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on(f"PATCH /v1/users/{USER_ID}", act.answer({}))
    twice = [*bearer.items(), ("If-Match", '"1"'), ("If-Match", '"2"')]
    response = await gateway.patch(f"/v1/users/{USER_ID}", headers=twice)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (400, "#header/if-match")
    assert [seen.target for seen in users.seen] == ["/.well-known/jwks.json"]


@pytest.mark.parametrize("credentials", ["Bearer x", "Bearer ", "Basic YTpi", "Bearer a.b.c, Bearer d.e.f", "é"])
async def test_what_is_no_token_is_401_with_a_challenge(
    credentials: str, gateway: httpx.AsyncClient, users: Any, orders: Any
) -> None:
    response = await gateway.get("/v1/orders", headers=[(b"Authorization", credentials.encode())])
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert orders.seen == []


async def test_tokens_of_others_or_of_yesterday_are_401(
    gateway: httpx.AsyncClient, issuer: TokenIssuer, orders: Any
) -> None:
    wrong = [
        issuer.token(USER_ID, exp=1),
        issuer.token(USER_ID, aud="other"),
        issuer.token(USER_ID, iss="https://other.example"),
        TokenIssuer().token(USER_ID),
    ]
    for token in wrong:
        response = await gateway.get("/v1/orders", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert orders.seen == []


async def test_a_public_route_does_not_mind_an_expired_token(
    gateway: httpx.AsyncClient, issuer: TokenIssuer, users: Any, act: Any
) -> None:
    users.on("POST /v1/auth/refresh", act.answer({"access_token": "new"}))
    expired = {"Authorization": f"Bearer {issuer.token(USER_ID, exp=1)}"}
    response = await gateway.post("/v1/auth/refresh", json={"refresh_token": "r"}, headers=expired)
    assert (response.status_code, response.json()) == (200, {"access_token": "new"})


async def test_without_the_issuers_keys_tokens_are_503_and_public_routes_work(
    open_gateway: Any, users: Any, bearer: dict[str, str], act: Any
) -> None:
    users.on("GET /.well-known/jwks.json", act.problem(500, "internal_error"))
    users.on("POST /v1/auth/token", act.answer({"access_token": "t"}))
    gateway = await open_gateway()
    private = await gateway.get("/v1/me", headers=bearer)
    assert (private.status_code, private.json()["code"]) == (503, "unavailable")
    assert "retry-after" in private.headers
    assert (await gateway.post("/v1/auth/token", headers=bearer)).status_code == 200


async def test_many_at_once_keep_their_own_answers(
    gateway: httpx.AsyncClient, orders: Any, issuer: TokenIssuer, act: Any
) -> None:
    orders.on("GET /v1/orders", act.echo())
    owners = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(100)]
    responses = await asyncio.gather(
        *(gateway.get(f"/v1/orders?user_id={owner}", headers=issuer.bearer(owner)) for owner in owners)
    )
    assert [response.json()["query"] for response in responses] == [f"user_id={owner}" for owner in owners]
    assert len({response.headers["x-request-id"] for response in responses}) == 100
