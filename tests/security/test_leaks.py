"""Secrets and personal data stay where they belong: not in answers, not in logs, not in traces.

Everything that carries some is done to the real cluster, well and badly; then its log files and its traces are read.
"""

import asyncio
import secrets
import stat
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop_cluster.pytest_plugin import Cluster

PERSONAL = {"email", "username", "full name"}
OURS = ("gateway", "users", "orders", "users-worker", "orders-worker")
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


class Secrets(dict[str, str]):
    """What must not be found, by what it is."""

    def found_in(self, text: str) -> list[str]:
        return [what for what, secret in self.items() if secret in text]


async def live_through(gateway: httpx.AsyncClient, person: Any, traced: dict[str, str]) -> Secrets:
    """All that a client does with secrets, and all that it gets wrong."""
    wrong, new = f"wrong-{secrets.token_hex(8)}", f"new-{secrets.token_hex(8)}"
    found = Secrets(
        {
            "password": person.password,
            "wrong password": wrong,
            "new password": new,
            "first refresh token": person.refresh_token,
            "access token": person.bearer["Authorization"].removeprefix("Bearer "),
            "email": person.email,
            "username": person.username,
            "full name": person.full_name,
        }
    )

    async def send(method: str, path: str, **parts: Any) -> httpx.Response:
        headers = traced | parts.pop("headers", {})
        answer = await gateway.request(method, path, headers=headers, **parts)
        assert answer.status_code < 500, answer.text
        # Whoever sends a secret may see it again in what is made of it, never in what refuses it.
        echoed = found.found_in(answer.text) if answer.is_error else []
        assert not echoed, f"{method} {path}: {echoed}"
        return answer

    async def log_in(name: str, password: str) -> httpx.Response:
        return await send("POST", "/v1/auth/token", data={"username": name, "password": password})

    bearer = person.bearer
    for name in (person.email, person.username):
        await log_in(name, wrong)
        granted = await log_in(name, person.password)
        found["refresh token of " + name] = granted.json()["refresh_token"]
        found["signature of " + name] = granted.json()["access_token"].rpartition(".")[2]
    await send("POST", "/v1/auth/token", json={"username": person.email, "password": wrong})
    await send("POST", "/v1/auth/token", content=f"username={person.email}&password={wrong}&password=%00")
    await send("GET", f"/v1/auth/token?username={person.email}&password={wrong}")

    again = {"email": person.email, "username": person.username, "password": wrong, "full_name": person.full_name}
    await send("POST", "/v1/users", json=again)
    await send("POST", "/v1/users", json={**again, "email": f"{uuid.uuid4()}@example.com"})
    for broken in ({"password": "short"}, {"email": person.email + "@"}, {"username": wrong + "!"}):
        await send("POST", "/v1/users", json={**again, "username": "x", **broken})
    await send("POST", "/v1/users", content=f'{{"password": "{wrong}", ')
    await send("POST", "/v1/users", content=f'["{wrong}"]')

    rotated = (await send("POST", "/v1/auth/refresh", json={"refresh_token": person.refresh_token})).json()
    found["second refresh token"] = rotated["refresh_token"]
    await send("POST", "/v1/auth/refresh", json={"refresh_token": person.refresh_token})
    await send("POST", "/v1/auth/refresh", json={"refresh_token": rotated["refresh_token"] + "!"})
    await send("POST", "/v1/auth/logout", json={"refresh_token": rotated["refresh_token"]})

    broken_token = found["access token"][:-1] + "!"
    for credentials in (f"Bearer {broken_token}", f"Basic {found['access token']}", f"Bearer {person.refresh_token}"):
        await send("GET", "/v1/me", headers={"Authorization": credentials})
    await send("GET", f"/v1/orders?access_token={found['access token']}", headers=bearer)
    body = {"current_password": wrong, "new_password": new}
    headers = bearer | {"If-Match": '"1"'}
    await send("POST", f"/v1/users/{person.id}/password", json=body, headers=headers)
    await send("POST", f"/v1/users/{person.id}/password", json={**body, "current_password": person.password, "x": 1})
    changed = await send(
        "POST", f"/v1/users/{person.id}/password", json={**body, "current_password": person.password}, headers=headers
    )
    headers = bearer | MERGE_PATCH | {"If-Match": changed.headers["etag"]}
    changed = await send("PATCH", f"/v1/users/{person.id}", json={"full_name": person.full_name + "!"}, headers=headers)
    await send("GET", "/v1/me/dashboard", headers=bearer)
    await send("DELETE", f"/v1/users/{person.id}", headers=bearer | {"If-Match": changed.headers["etag"]})
    return found


@pytest.fixture
async def lived(
    gateway: httpx.AsyncClient, register: Any, trace_context: Any, eventually: Any, cluster: Cluster
) -> Any:
    """What must not be found, once the log files have what the last request left there."""
    found = await live_through(gateway, await register(), trace_context.header)
    last = uuid.uuid4().hex
    await gateway.get("/v1/users", headers={"X-Request-Id": last, "Authorization": "Bearer x"})
    await gateway.post("/v1/auth/logout", json={}, headers={"X-Request-Id": last})

    async def logged() -> bool | None:
        logs = [await asyncio.to_thread(cluster.state.log(name).read_text) for name in ("gateway", "users")]
        return True if all(last in log for log in logs) else None

    await eventually(logged, "the last request was never logged")
    state = cluster.state
    private = [
        line for file in state.place("keys", "any").parent.glob("*.pem") for line in file.read_text().split("\n")
    ]
    kept = {f"line {number} of a signing key": line for number, line in enumerate(private) if len(line) == 64}
    kept |= {f"secret {name.name}": name.read_text() for name in state.place("secrets", "any").parent.glob("[!.]*_*")}
    assert kept
    found.update(kept)
    return found


async def test_neither_logs_nor_traces_have_them(
    lived: Secrets, cluster: Cluster, trace_context: Any, fetch_trace: Any
) -> None:
    logs = {file.stem: file for file in cluster.state.log("any").parent.iterdir() if file.is_file()}
    assert len(logs) > len(OURS)
    for name, file in logs.items():
        text = await asyncio.to_thread(file.read_text, errors="replace")
        found = set(lived.found_in(text))
        # PostgreSQL names the key that is taken, and the mail catcher whom a mail is for: ours name nobody.
        assert not (found if name in OURS else found - PERSONAL), f"{name}.log"
        assert text or name not in OURS
        assert "$argon2" not in text

    def complete(trace: Any) -> bool:
        return bool(trace.has_path("server users", "producer users-worker", "consumer orders-worker"))

    trace = await fetch_trace(trace_context, complete)
    assert len(trace.spans) > 100
    assert lived.found_in(trace.text) == []
    assert "$argon2" not in trace.text


async def test_secrets_are_for_their_owner_alone(cluster: Cluster) -> None:
    state = cluster.state
    folder, keys = state.place("secrets", "any").parent, state.place("keys", "any").parent
    files = [file for file in [*folder.rglob("*"), *keys.glob("*.pem")] if file.is_file()]
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, *(f for f in folder.iterdir() if f.is_dir()))} == {
        0o700
    }


async def test_no_secret_is_in_a_command_line_or_an_environment(cluster: Cluster) -> None:
    """Of the services: anybody on the machine may read the first, and every child inherits the second."""
    kept = [file.read_text() for file in cluster.state.place("secrets", "any").parent.rglob("*") if file.is_file()]
    for name, pid in cluster.services.items():
        for what in ("cmdline", "environ"):
            text = await asyncio.to_thread(Path(f"/proc/{pid}/{what}").read_bytes)
            assert not [secret for secret in kept if secret.encode() in text], f"{what} of {name}"
