"""Whether an account exists: what an answer tells, and what it cannot help telling.

That an unknown name costs the same hashing is proved in services/users/tests/unit/test_users_logins.py.
"""

import uuid
from typing import Any

import httpx
import pytest

VARYING = {"x-request-id", "x-process-time", "server-timing", "ratelimit", "date"}


def seen(answer: httpx.Response) -> tuple[Any, ...]:
    headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
    return answer.status_code, answer.json() | {"request_id": ""}, headers


async def test_every_failed_login_looks_the_same(gateway: httpx.AsyncClient, register: Any, ada: Any) -> None:
    gone = await register()
    await gateway.delete(f"/v1/users/{gone.id}", headers=gone.bearer | {"If-Match": '"1"'})
    attempts = [
        (ada.email, "not the one"),
        (ada.username, "not the one"),
        (ada.email.upper(), "not the one"),
        (gone.email, gone.password),
        (f"{uuid.uuid4()}@example.com", ada.password),
        ("nobody-" + uuid.uuid4().hex[:8], ada.password),
        (ada.id, ada.password),
    ]
    answers = []
    for name, password in attempts:
        answers.append(await gateway.post("/v1/auth/token", data={"username": name, "password": password}))
    assert answers[0].status_code == 401
    assert all(seen(answer) == seen(answers[0]) for answer in answers)


async def test_registering_tells_what_is_taken_and_nothing_of_whom(gateway: httpx.AsyncClient, ada: Any) -> None:
    """Inherent: a name can be taken but once. What is left is that asking has a quota of its own."""
    fresh = {"email": f"{uuid.uuid4()}@example.com", "username": f"n{uuid.uuid4().hex[:12]}", "password": "long enough"}
    for field, taken, code in (
        ("email", ada.email.upper(), "email_taken"),
        ("username", ada.username, "username_taken"),
    ):
        refused = await gateway.post("/v1/users", json=fresh | {field: taken})
        assert (refused.status_code, refused.json()["code"]) == (409, code)
        assert not [text for text in (ada.id, ada.full_name) if text in refused.text]
        assert '"registration";' in refused.headers["ratelimit"]


@pytest.mark.parametrize("path", ["/v1/auth/refresh", "/v1/auth/logout"])
async def test_a_made_up_session_is_answered_like_one_that_ended(
    path: str, gateway: httpx.AsyncClient, register: Any
) -> None:
    person = await register()
    await gateway.post("/v1/auth/logout", json={"refresh_token": person.refresh_token})
    ended = await gateway.post(path, json={"refresh_token": person.refresh_token})
    made_up = await gateway.post(path, json={"refresh_token": "A" * 64})
    assert ended.status_code == made_up.status_code
    assert ended.status_code == 204 or seen(ended) == seen(made_up)
