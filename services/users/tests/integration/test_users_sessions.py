"""Logging in, refreshing, logging out, changing passwords; and the keys that sign access tokens."""

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from shop_common.postgres import Postgres
from shop_common.settings import TokenSettings
from shop_common.testing import open_app_client
from shop_common.tokens import KeyCache, TokenVerifier, fetch_keys_from
from shop_users.app import create_app
from shop_users.keys import READ_AGAIN_SECONDS, add_key
from shop_users.settings import Settings

PASSWORD = "correct horse battery"


async def log_in(client: httpx.AsyncClient, name: str = "ada", password: str = PASSWORD) -> httpx.Response:
    return await client.post("/v1/auth/token", data={"username": name, "password": password})


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/v1/auth/refresh", json={"refresh_token": token})


async def sessions(postgres: Postgres) -> int:
    return int(await postgres.fetchval("SELECT count(*) FROM sessions"))


@pytest.mark.parametrize("name", ["ada", "ADA", "ada@example.com", "Ada@Example.com"])
async def test_a_login_gives_tokens_that_others_can_check(client: httpx.AsyncClient, register: Any, name: str) -> None:
    ada = await register("ada")
    answer = await log_in(client, name)
    pair = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert (pair["token_type"], pair["expires_in"]) == ("bearer", 900)

    verifier = TokenVerifier(TokenSettings(), KeyCache(fetch_keys_from(client, "/.well-known/jwks.json")))
    principal = await verifier.verify(pair["access_token"])
    assert (principal.user_id, principal.role) == (ada.id, "customer")
    claims = jwt.decode(pair["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 900
    assert (claims["iss"], claims["aud"]) == ("https://shop.example", "shop")
    assert len(claims["jti"]) == 32
    me = await client.get("/v1/me", headers={"Authorization": f"Bearer {pair['access_token']}"})
    assert me.json() == ada.user


async def test_every_failed_login_looks_the_same(client: httpx.AsyncClient, register: Any) -> None:
    ada, gone = await register("ada"), await register("gone")
    await client.delete(gone.path, headers=gone.if_match())
    answers = [
        await log_in(client, *attempt) for attempt in (("ada", "wrong one"), ("nobody", PASSWORD), ("gone", PASSWORD))
    ]
    bodies = [answer.json() | {"request_id": ""} for answer in answers]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert bodies[0]["code"] == "invalid_credentials"
    assert bodies[0] == bodies[1] == bodies[2]
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert ada.id not in answers[0].text


@pytest.mark.parametrize(
    "form",
    [
        {"username": "ada"},
        {"password": PASSWORD},
        {"username": "ada", "password": PASSWORD, "grant_type": "client_credentials"},
        {"username": "a\x00a", "password": PASSWORD},
        {"username": "ada", "password": "x" * 129},
    ],
)
async def test_a_login_form_is_checked(client: httpx.AsyncClient, form: dict[str, str]) -> None:
    assert (await client.post("/v1/auth/token", data=form)).status_code == 422


async def test_the_form_of_an_oauth2_client_is_taken(client: httpx.AsyncClient, register: Any) -> None:
    await register("ada")
    form = {"grant_type": "password", "username": "ada", "password": PASSWORD, "scope": "", "client_id": "docs"}
    assert (await client.post("/v1/auth/token", data=form)).status_code == 200
    assert (await client.post("/v1/auth/token", json=form)).status_code == 422


async def test_a_login_renews_an_outdated_hash(client: httpx.AsyncClient, register: Any, postgres: Postgres) -> None:
    ada = await register("ada")
    outdated = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    await postgres.execute("UPDATE users SET password_hash = $1", outdated)
    assert (await log_in(client)).status_code == 200
    renewed = await postgres.fetchrow("SELECT password_hash, version FROM users WHERE id = $1", uuid.UUID(ada.id))
    assert renewed is not None
    assert renewed["password_hash"] != outdated
    assert renewed["version"] == 1
    assert (await log_in(client)).status_code == 200
    assert await postgres.fetchval("SELECT password_hash FROM users") == renewed["password_hash"]


async def test_logins_at_once_renew_an_outdated_hash_and_all_succeed(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    outdated = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    for _ in range(5):
        await postgres.execute("UPDATE users SET password_hash = $1", outdated)
        answers = await asyncio.gather(*(log_in(client) for _ in range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6


async def test_refreshing_rotates_and_keeps_no_token(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    first = (await log_in(client)).json()["refresh_token"]
    answer = await refresh(client, first)
    second = answer.json()["refresh_token"]
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert second != first
    assert (await refresh(client, second)).status_code == 200
    row = await postgres.fetchrow("SELECT token_hash, expires_at FROM sessions")
    assert row is not None
    assert len(row["token_hash"]) == 32
    assert timedelta(days=13, hours=23) < row["expires_at"] - datetime.now(UTC) <= timedelta(days=14)


async def test_reusing_a_refresh_token_ends_its_session_only(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    first, other = [(await log_in(client)).json()["refresh_token"] for _ in range(2)]
    second = (await refresh(client, first)).json()["refresh_token"]
    reused = await refresh(client, first)
    assert (reused.status_code, reused.json()["code"]) == (401, "invalid_refresh_token")
    assert (await refresh(client, second)).status_code == 401
    assert (await refresh(client, other)).status_code == 200
    assert await sessions(postgres) == 1


async def test_of_two_refreshes_at_once_one_wins_and_the_session_ends(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    for _ in range(5):
        token = (await log_in(client)).json()["refresh_token"]
        answers = await asyncio.gather(refresh(client, token), refresh(client, token))
        assert sorted(answer.status_code for answer in answers) == [200, 401]
        (won,) = (answer for answer in answers if answer.status_code == 200)
        assert (await refresh(client, won.json()["refresh_token"])).status_code == 401
    assert await sessions(postgres) == 0


@pytest.mark.parametrize("token", ["A" * 64, "____________-_-_" * 4])
async def test_an_unknown_refresh_token_is_401(client: httpx.AsyncClient, token: str) -> None:
    assert (await refresh(client, token)).status_code == 401
    assert (await client.post("/v1/auth/logout", json={"refresh_token": token})).status_code == 204


@pytest.mark.parametrize("token", ["", "short", "=" * 64, "A" * 65, None])
async def test_what_cannot_be_a_refresh_token_is_422(client: httpx.AsyncClient, token: str | None) -> None:
    for path in ("/v1/auth/refresh", "/v1/auth/logout"):
        assert (await client.post(path, json={"refresh_token": token})).status_code == 422


async def test_an_expired_session_is_over_and_swept(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    token = (await log_in(client)).json()["refresh_token"]
    await postgres.execute("UPDATE sessions SET expires_at = now() - interval '1 second'")
    await log_in(client)
    assert await sessions(postgres) == 1
    assert (await refresh(client, token)).status_code == 401
    assert await sessions(postgres) == 1


async def test_a_session_ends_however_often_its_tokens_were_exchanged(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    token = (await log_in(client)).json()["refresh_token"]
    await postgres.execute("UPDATE sessions SET created_at = now() - interval '80 days'")
    token = (await refresh(client, token)).json()["refresh_token"]
    ends = await postgres.fetchval("SELECT expires_at - created_at FROM sessions")
    assert ends == timedelta(days=90), "and not in fourteen days from now"
    await postgres.execute("UPDATE sessions SET created_at = now() - interval '91 days', expires_at = now() + '1 hour'")
    token = (await refresh(client, token)).json()["refresh_token"]
    assert (await refresh(client, token)).status_code == 401


async def test_logging_out_ends_the_session_whichever_of_its_tokens_is_sent(
    client: httpx.AsyncClient, register: Any, postgres: Postgres
) -> None:
    await register("ada")
    first = (await log_in(client)).json()["refresh_token"]
    second = (await refresh(client, first)).json()["refresh_token"]
    for _ in range(2):
        assert (await client.post("/v1/auth/logout", json={"refresh_token": first})).status_code == 204
    assert (await refresh(client, second)).status_code == 401
    assert await sessions(postgres) == 0


async def test_changing_ones_password(client: httpx.AsyncClient, register: Any, postgres: Postgres) -> None:
    ada, bob = await register("ada"), await register("bob")
    token = (await log_in(client)).json()["refresh_token"]
    bobs = (await log_in(client, "bob")).json()["refresh_token"]
    body = {"current_password": PASSWORD, "new_password": "another secret"}
    path = f"{ada.path}/password"
    assert (await client.post(path, json=body, headers=ada.bearer)).status_code == 428
    assert (await client.post(path, json=body, headers=ada.if_match(2))).status_code == 412
    for wrong in ({"new_password": "another secret"}, body | {"current_password": "not the one"}):
        answer = await client.post(path, json=wrong, headers=ada.if_match())
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_password")
    answer = await client.post(path, json=body | {"new_password": "short"}, headers=ada.if_match())
    assert answer.status_code == 422

    answer = await client.post(path, json=body, headers=ada.if_match())
    assert (answer.status_code, answer.headers["etag"], answer.content) == (204, '"2"', b"")
    assert (await log_in(client)).status_code == 401
    assert (await log_in(client, password="another secret")).status_code == 200
    assert (await refresh(client, token)).status_code == 401
    assert (await refresh(client, bobs)).status_code == 200
    events = await postgres.fetch(
        "SELECT version, headers ->> 'type' AS type, payload FROM outbox WHERE aggregate_id = $1 ORDER BY id",
        uuid.UUID(ada.id),
    )
    assert [(row["version"], row["type"]) for row in events] == [
        (1, "users.user_registered.v1"),
        (2, "users.user_updated.v1"),
    ]
    assert b"argon2" not in events[1]["payload"]
    assert bob.id != ada.id


async def test_an_administrator_sets_anothers_password_but_not_their_own_without_it(
    client: httpx.AsyncClient, register: Any, admin: dict[str, str], bearer_of: Any
) -> None:
    ada, chief = await register("ada"), await register("chief")
    body, version = {"new_password": "another secret"}, {"If-Match": '"1"'}
    assert (await client.post(f"{ada.path}/password", json=body, headers=admin | version)).status_code == 204
    assert (await log_in(client, password="another secret")).status_code == 200
    own = await bearer_of(chief.id, "admin") | version
    assert (await client.post(f"{chief.path}/password", json=body, headers=own)).status_code == 403


async def test_a_login_that_races_with_a_new_password_leaves_no_session(
    client: httpx.AsyncClient, register: Any, postgres: Postgres, until: Any
) -> None:
    """The login has checked the old password; before its session is written, the password changes."""
    ada = await register("ada")
    async with postgres.transaction() as transaction:
        await transaction.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", uuid.UUID(ada.id))
        login = asyncio.create_task(log_in(client))

        async def login_waits() -> bool:
            return bool(await transaction.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

        await until(login_waits)
        await transaction.execute("UPDATE users SET password_hash = 'replaced' WHERE id = $1", uuid.UUID(ada.id))
    assert (await login).status_code == 401
    assert await sessions(postgres) == 0


async def test_keys_rotate_without_an_unknown_key_in_between(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three replicas' views in one: a key is published at once, signs after the delay, and old tokens stay good."""
    now = datetime.now(UTC)
    old = add_key(tmp_path, now - timedelta(days=2))
    app = create_app(settings.model_copy(update={"signing_keys_dir": tmp_path}))
    async with open_app_client(app) as client:
        before = await _login_as_new(client, "ada")
        assert jwt.get_unverified_header(before)["kid"] == old
        fresh = add_key(tmp_path, now)
        active = add_key(tmp_path, now - timedelta(minutes=11))
        _grow_older(app, monkeypatch)
        jwks = await client.get("/.well-known/jwks.json")
        assert jwks.headers["cache-control"] == "public, max-age=300"
        assert {key["kid"] for key in jwks.json()["keys"]} == {old, active, fresh}
        assert {(key["kty"], key["crv"], key["alg"], key["use"]) for key in jwks.json()["keys"]} == {
            ("EC", "P-256", "ES256", "sig")
        }
        assert "d" not in jwks.json()["keys"][0]
        after = await _login_as_new(client, "bob")
        assert jwt.get_unverified_header(after)["kid"] == active
        for token in (before, after):
            me = await client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})
            assert me.status_code == 200
        for kid in (old, active, fresh):
            await asyncio.to_thread((tmp_path / f"{kid}.pem").unlink)
        _grow_older(app, monkeypatch)
        assert len((await client.get("/.well-known/jwks.json")).json()["keys"]) == 3


async def _login_as_new(client: httpx.AsyncClient, name: str) -> str:
    body = {"email": f"{name}@example.com", "username": name, "password": PASSWORD}
    assert (await client.post("/v1/users", json=body)).status_code == 201
    return str((await log_in(client, name)).json()["access_token"])


def _grow_older(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.state.resources.keys, "_read_at", time.monotonic() - READ_AGAIN_SECONDS)
