"""Registering, reading, changing and deactivating users over HTTP."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from shop_common.events.envelope import event_id
from shop_common.postgres import Postgres

PASSWORD = "correct horse battery"


async def events_of(postgres: Postgres, user_id: str) -> list[tuple[int, str]]:
    """Version and type of what waits in the outbox, in the order the relay would send it."""
    rows = await postgres.fetch(
        "SELECT version, headers ->> 'type' AS type, event_id FROM outbox WHERE aggregate_id = $1 ORDER BY shard, id",
        uuid.UUID(user_id),
    )
    assert [row["event_id"] for row in rows] == [event_id(user_id, row["version"]) for row in rows]
    return [(row["version"], row["type"]) for row in rows]


async def test_registering_answers_201_with_location_and_etag_and_writes_one_event(
    client: httpx.AsyncClient, postgres: Postgres
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    answer = await client.post(
        "/v1/users",
        json={"email": "Ada@EXAMPLE.com", "username": "ada", "password": PASSWORD, "full_name": "Ada Lovelace"},
        headers={"traceparent": traceparent},
    )
    assert answer.status_code == 201
    user = answer.json()
    assert answer.headers["location"] == f"/v1/users/{user['id']}"
    assert answer.headers["etag"] == '"1"'
    assert (user["email"], user["role"], user["is_active"], user["version"]) == ("Ada@example.com", "customer", True, 1)
    assert "password" not in answer.text
    assert user["created_at"] == user["updated_at"]
    assert user["created_at"].endswith("Z")
    assert await events_of(postgres, user["id"]) == [(1, "users.user_registered.v1")]
    row = await postgres.fetchrow("SELECT key, headers ->> 'traceparent' AS traceparent, payload, shard FROM outbox")
    assert row is not None
    assert row["key"].decode() == user["id"]
    assert row["traceparent"].split("-")[1] == traceparent.split("-")[1]
    assert PASSWORD not in row["payload"].decode()
    assert 0 <= row["shard"] < 16


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"email": "no address"}, "#/email"),
        ({"email": "a@nowhere.test"}, "#/email"),
        ({"email": 7}, "#/email"),
        ({"username": "ab"}, "#/username"),
        ({"username": "a" * 51}, "#/username"),
        ({"username": "a@b.example"}, "#/username"),
        ({"username": "abc\n"}, "#/username"),
        ({"password": "short"}, "#/password"),
        ({"password": "x" * 129}, "#/password"),
        ({"full_name": "x" * 201}, "#/full_name"),
        ({"full_name": "a\x00b"}, "#/full_name"),
        ({"full_name": ""}, "#/full_name"),
        ({"role": "admin"}, "#/role"),
    ],
)
async def test_registering_names_the_field_at_fault(
    client: httpx.AsyncClient, fields: dict[str, Any], pointer: str
) -> None:
    body = {"email": "ada@example.com", "username": "ada", "password": PASSWORD} | fields
    answer = await client.post("/v1/users", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert PASSWORD not in answer.text


async def test_half_a_surrogate_pair_is_refused(client: httpx.AsyncClient) -> None:
    body = '{"email": "ada@example.com", "username": "ada", "password": "long enough", "full_name": "\\ud800"}'
    answer = await client.post("/v1/users", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


async def test_email_and_username_are_unique_ignoring_case(client: httpx.AsyncClient, register: Any) -> None:
    await register("ada")
    body = {"email": "ADA@example.com", "username": "other", "password": PASSWORD}
    answer = await client.post("/v1/users", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "email_taken")
    assert answer.json()["errors"][0]["pointer"] == "#/email"
    answer = await client.post("/v1/users", json=body | {"email": "new@example.com", "username": "ADA"})
    assert (answer.status_code, answer.json()["code"]) == (409, "username_taken")


async def test_of_registrations_of_one_email_at_once_one_wins(client: httpx.AsyncClient, postgres: Postgres) -> None:
    async def attempt(number: int) -> int:
        body = {"email": "ada@example.com", "username": f"ada{number}", "password": PASSWORD}
        return (await client.post("/v1/users", json=body)).status_code

    statuses = await asyncio.gather(*(attempt(number) for number in range(6)))
    assert sorted(statuses) == [201, 409, 409, 409, 409, 409]
    assert await postgres.fetchval("SELECT count(*) FROM users") == 1
    assert await postgres.fetchval("SELECT count(*) FROM outbox") == 1


async def test_reading_oneself_and_304(client: httpx.AsyncClient, register: Any) -> None:
    ada = await register("ada")
    for path in (ada.path, "/v1/me"):
        answer = await client.get(path, headers=ada.bearer)
        assert (answer.status_code, answer.json()) == (200, ada.user)
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["cache-control"] == "private, no-cache"
        for tag in ('"1"', 'W/"1"', '"0", "1"', "*"):
            cached = await client.get(path, headers=ada.bearer | {"If-None-Match": tag})
            assert (cached.status_code, cached.content, cached.headers["etag"]) == (304, b"", '"1"')
        assert (await client.get(path, headers=ada.bearer | {"If-None-Match": '"2"'})).status_code == 200


async def test_patch_changes_what_is_sent_and_writes_one_event(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    ada = await register("ada", full_name="Ada")
    answer = await patch(client, ada, {"username": "countess"})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert answer.json() | {"updated_at": ""} == ada.user | {"username": "countess", "version": 2, "updated_at": ""}
    answer = await patch(client, ada, {"full_name": None, "email": "countess@example.com"}, version=2)
    changed = answer.json()
    assert (changed["full_name"], changed["email"], changed["version"]) == (None, "countess@example.com", 3)
    assert await events_of(postgres, ada.id) == [
        (1, "users.user_registered.v1"),
        (2, "users.user_updated.v1"),
        (3, "users.user_updated.v1"),
    ]
    payload = await postgres.fetchval("SELECT payload FROM outbox WHERE version = 3")
    assert b'"email":"countess@example.com"' in payload


async def test_a_patch_that_changes_nothing_makes_no_version(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    ada = await register("ada")
    for body in ({}, {"username": "ada", "full_name": None}):
        answer = await patch(client, ada, body)
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, ada.user, '"1"')
    assert await events_of(postgres, ada.id) == [(1, "users.user_registered.v1")]


@pytest.mark.parametrize("body", [{"email": None}, {"username": None}, {"role": "admin"}, {"is_active": False}, []])
async def test_patch_refuses_what_it_may_not_change(client: httpx.AsyncClient, register: Any, body: Any) -> None:
    ada = await register("ada")
    assert (await patch(client, ada, body)).status_code == 422
    assert (await client.get("/v1/me", headers=ada.bearer)).json() == ada.user


async def test_patch_needs_the_right_content_type_and_version(client: httpx.AsyncClient, register: Any) -> None:
    ada = await register("ada")
    answer = await client.patch(ada.path, json={"username": "new"}, headers=ada.if_match())
    assert (answer.status_code, answer.headers["accept-patch"]) == (415, "application/merge-patch+json")
    answer = await patch(client, ada, {"username": "new"}, version=2)
    assert (answer.status_code, answer.headers["etag"]) == (412, '"1"')
    headers = ada.bearer | {"content-type": "application/merge-patch+json"}
    assert (await client.patch(ada.path, content="{}", headers=headers)).status_code == 428
    answer = await client.patch(ada.path, content="{}", headers=headers | {"If-Match": 'W/"1"'})
    assert answer.status_code == 400


async def test_patch_to_a_taken_name_is_409(client: httpx.AsyncClient, register: Any) -> None:
    ada, _ = await register("ada"), await register("bob")
    answer = await patch(client, ada, {"email": "BOB@example.com"})
    assert (answer.status_code, answer.json()["code"]) == (409, "email_taken")
    answer = await patch(client, ada, {"username": "Bob"})
    assert (answer.status_code, answer.json()["code"]) == (409, "username_taken")
    assert (await patch(client, ada, {"username": "ADA"})).status_code == 200


async def test_of_two_patches_of_one_version_one_is_412(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    ada = await register("ada")
    for version in range(1, 11):
        answers = await asyncio.gather(
            *(patch(client, ada, {"username": f"ada{version}{suffix}"}, version=version) for suffix in "ab")
        )
        assert sorted(answer.status_code for answer in answers) == [200, 412]
        (refused,) = (answer for answer in answers if answer.status_code == 412)
        assert refused.headers["etag"] == f'"{version + 1}"'
    assert [version for version, _ in await events_of(postgres, ada.id)] == list(range(1, 12))


async def test_deactivating_is_final_idempotent_and_ends_sessions(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    ada = await register("ada")
    login = await client.post("/v1/auth/token", data={"username": "ada", "password": PASSWORD})
    assert (await client.delete(ada.path, headers=ada.bearer)).status_code == 428
    assert (await client.delete(ada.path, headers=ada.if_match(7))).status_code == 412
    answer = await client.delete(ada.path, headers=ada.if_match())
    assert (answer.status_code, answer.headers["etag"], answer.content) == (204, '"2"', b"")
    assert (await client.delete(ada.path, headers=ada.if_match())).status_code == 412
    assert (await client.delete(ada.path, headers=ada.if_match(2))).status_code == 204
    assert await events_of(postgres, ada.id) == [(1, "users.user_registered.v1"), (2, "users.user_deactivated.v1")]

    assert (await client.get("/v1/me", headers=ada.bearer)).json()["is_active"] is False
    answer = await patch(client, ada, {"username": "new"}, version=2)
    assert (answer.status_code, answer.json()["code"]) == (409, "user_deactivated")
    answer = await client.post(
        f"{ada.path}/password",
        json={"current_password": PASSWORD, "new_password": "another secret"},
        headers=ada.if_match(2),
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "user_deactivated")
    refused = await client.post("/v1/auth/token", data={"username": "ada", "password": PASSWORD})
    wrong = await client.post("/v1/auth/token", data={"username": "ada", "password": "not the one"})
    assert {**refused.json(), "request_id": ""} == {**wrong.json(), "request_id": ""}
    refresh = await client.post("/v1/auth/refresh", json={"refresh_token": login.json()["refresh_token"]})
    assert refresh.status_code == 401


async def test_the_list_is_newest_first_and_complete(
    client: httpx.AsyncClient, register: Any, admin: dict[str, str]
) -> None:
    names = [f"user{number}" for number in range(5)]
    for name in names:
        await register(name)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor:
        answer = await client.get(
            "/v1/users", params={"limit": 2} | ({"cursor": cursor} if cursor else {}), headers=admin
        )
        seen += [user["username"] for user in answer.json()["items"]]
        cursor, pages = answer.json()["next_cursor"], pages + 1
    assert (seen, pages) == (names[::-1], 3)
    whole = await client.get("/v1/users", headers=admin)
    assert (len(whole.json()["items"]), whole.json()["next_cursor"]) == (5, None)
    cached = await client.get("/v1/users", headers=admin | {"If-None-Match": whole.headers["etag"]})
    assert cached.status_code == 304


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"limit": 0}, 422),
        ({"limit": 101}, 422),
        ({"limit": 100}, 200),
        ({"cursor": "abc"}, 400),
        ({"cursor": "é"}, 400),
    ],
)
async def test_the_list_checks_its_parameters(
    client: httpx.AsyncClient, admin: dict[str, str], params: dict[str, Any], status: int
) -> None:
    assert (await client.get("/v1/users", params=params, headers=admin)).status_code == status


async def patch(client: httpx.AsyncClient, account: Any, body: Any, version: int = 1) -> httpx.Response:
    headers = account.if_match(version) | {"content-type": "application/merge-patch+json"}
    return await client.patch(
        account.path, content=httpx.Request("PATCH", "http://x", json=body).content, headers=headers
    )


async def test_a_database_that_drops_its_connections_costs_503_at_most(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    ada = await register("ada")
    seen = set()
    for _ in range(5):
        await postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'users' AND datname = current_database()"
        )
        answers = [await client.get(ada.path, headers=ada.bearer) for _ in range(4)]
        seen |= {answer.status_code for answer in answers}
        assert answers[-1].status_code == 200
    assert seen <= {200, 503}
