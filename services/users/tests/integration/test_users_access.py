"""Object-level access on every route: another user's data is exactly as absent as data that never was."""

import uuid
from typing import Any

import httpx
import pytest

PATCH = {"content-type": "application/merge-patch+json"}
# Method, what follows /v1/users/{id}, and the request's body and headers.
ROUTES: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "", {}),
    ("GET", "/stats", {}),
    ("PATCH", "", {"content": b'{"username": "changed"}', "headers": PATCH | {"If-Match": '"1"'}}),
    ("DELETE", "", {"headers": {"If-Match": '"1"'}}),
    ("POST", "/password", {"json": {"new_password": "another secret"}, "headers": {"If-Match": '"1"'}}),
]
everywhere = pytest.mark.parametrize(
    ("method", "suffix", "request_parts"), ROUTES, ids=[f"{m} {s}" for m, s, _ in ROUTES]
)


async def call(
    client: httpx.AsyncClient, method: str, path: str, parts: dict[str, Any], bearer: dict[str, str]
) -> httpx.Response:
    return await client.request(method, path, **parts | {"headers": parts.get("headers", {}) | bearer})


@everywhere
async def test_anothers_is_404_and_identical_to_an_unknown_one(
    client: httpx.AsyncClient, register: Any, method: str, suffix: str, request_parts: dict[str, Any]
) -> None:
    ada, eve = await register("ada"), await register("eve")
    anothers = await call(client, method, ada.path + suffix, request_parts, eve.bearer)
    unknown = await call(client, method, f"/v1/users/{uuid.uuid4()}{suffix}", request_parts, eve.bearer)
    assert (anothers.status_code, anothers.json()["code"]) == (404, "user_not_found")
    assert anothers.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    varying = {"x-request-id", "x-process-time"}
    assert {n: v for n, v in anothers.headers.items() if n not in varying} == {
        n: v for n, v in unknown.headers.items() if n not in varying
    }
    assert (await client.get(ada.path, headers=ada.bearer)).json() == ada.user


@everywhere
async def test_an_administrator_reaches_everybody_and_still_gets_404(
    client: httpx.AsyncClient,
    register: Any,
    admin: dict[str, str],
    method: str,
    suffix: str,
    request_parts: dict[str, Any],
) -> None:
    ada = await register("ada")
    assert (await call(client, method, ada.path + suffix, request_parts, admin)).is_success
    unknown = await call(client, method, f"/v1/users/{uuid.uuid4()}{suffix}", request_parts, admin)
    assert unknown.status_code == 404


@everywhere
async def test_without_a_token_it_is_401(
    client: httpx.AsyncClient, register: Any, method: str, suffix: str, request_parts: dict[str, Any]
) -> None:
    ada = await register("ada")
    for bearer in ({}, {"Authorization": "Bearer nonsense"}):
        answer = await call(client, method, ada.path + suffix, request_parts, bearer)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_list_is_for_administrators(client: httpx.AsyncClient, register: Any) -> None:
    ada = await register("ada")
    assert (await client.get("/v1/users", headers=ada.bearer)).status_code == 403
    assert (await client.get("/v1/users")).status_code == 401


async def test_me_is_whom_the_token_names(client: httpx.AsyncClient, register: Any, bearer_of: Any) -> None:
    await register("ada")
    assert (await client.get("/v1/me")).status_code == 401
    nobody = await bearer_of(str(uuid.uuid4()), "customer")
    assert (await client.get("/v1/me", headers=nobody)).status_code == 404
