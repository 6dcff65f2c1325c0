"""Text that some language downstream would take for its own: SQL, MongoDB, logs, mail, URLs."""

import base64
import json
import uuid
from typing import Any

import httpx
import pytest

ITEM = {"sku": "tea-1", "quantity": 1, "unit_price": {"amount": 450, "currency": "EUR"}}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json", "If-Match": '"1"'}
OPERATORS: list[Any] = [
    {"$gt": ""},
    {"$ne": None},
    {"$regex": ".*"},
    {"$where": "sleep(5000)"},
    {"a.b": 1},
    ["x"],
    True,
    7,
    None,
]
TEXTS = [
    "' OR '1'='1",
    "'; DROP TABLE users; --",
    "admin'--",
    '{"$gt": ""}',
    "$where",
    "a.b.c",
    "\x00",
    "x\x00y",
    "\r\nSet-Cookie: a=1",
    "x\r\nBcc: victim@example.com",
    "%s%n",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "../../etc/passwd",
    "\u202eevil",
    "\u017f",
    "x" * 5000,
]


def is_refusal(answer: httpx.Response, *statuses: int) -> bool:
    return answer.status_code in statuses and answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("value", OPERATORS, ids=json.dumps)
async def test_an_operator_is_no_text(value: Any, gateway: httpx.AsyncClient, ada: Any) -> None:
    account = {"email": f"{uuid.uuid4()}@example.com", "username": "nobody", "password": "long enough"}
    for field in account:
        assert is_refusal(await gateway.post("/v1/users", json=account | {field: value}), 422), field
    for path in ("/v1/auth/refresh", "/v1/auth/logout"):
        assert is_refusal(await gateway.post(path, json={"refresh_token": value}), 422)
    login = await gateway.post("/v1/auth/token", json={"username": value, "password": value})
    assert is_refusal(login, 422)
    for field in ("sku", "quantity", "unit_price"):
        if (field, value) != ("quantity", 7):
            body = {"items": [ITEM | {field: value}]}
            placed = await gateway.post("/v1/orders", json=body, headers=ada.bearer | {"Idempotency-Key": "operators"})
            assert is_refusal(placed, 422), field
    if value is not None:
        body = {"full_name": value}
        assert is_refusal(await gateway.patch(f"/v1/users/{ada.id}", json=body, headers=ada.bearer | MERGE_PATCH), 422)


@pytest.mark.parametrize("key", ["[$gt]", "[$ne]", "[$regex]", "[]", ".$gt", "[0]"])
async def test_operators_are_no_filters(key: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    """As bodies of forms and queries are written where a framework makes objects of brackets."""
    form = {f"username{key}": "", f"password{key}": ""}
    assert is_refusal(await gateway.post("/v1/auth/token", data=form), 422)
    for field in ("user_id", "status", "cursor", "limit"):
        answer = await gateway.get("/v1/orders", params={f"{field}{key}": ""}, headers=ada.bearer)
        assert is_refusal(answer, 422), field


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:24])
async def test_text_stays_text(text: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    login = await gateway.post("/v1/auth/token", data={"username": text, "password": text})
    assert is_refusal(login, 401, 422)
    for params in ({"user_id": text}, {"status": text}, {"limit": text}, {"cursor": text}, {text: "1"}):
        answer = await gateway.get("/v1/orders", params=params, headers=ada.bearer)
        assert is_refusal(answer, 400, 422), params
    for path in ("/v1/users/{}", "/v1/users/{}/stats", "/v1/users/{}/dashboard", "/v1/orders/{}"):
        quoted = "".join(f"%{byte:02x}" for byte in text.encode())
        url = httpx.URL(str(gateway.base_url), raw_path=path.format(quoted).encode())
        answer = await gateway.send(gateway.build_request("GET", url, headers=ada.bearer))
        assert is_refusal(answer, 404, 422, 431), path
    for header in ("Idempotency-Key", "If-Match", "If-None-Match", "Prefer", "X-Request-Id", "traceparent", "Accept"):
        if not set(text) & set("\x00\r\n"):
            value = text.encode()
            answer = await gateway.get("/v1/me", headers=[*ada.bearer.items(), (header, value)])
            assert answer.status_code in {200, 304, 400, 431}, header
            assert "set-cookie" not in answer.headers
    assert (await gateway.get("/v1/me", headers=ada.bearer)).json()["version"] == 1


async def test_a_name_is_kept_as_it_was_written_or_refused(gateway: httpx.AsyncClient, register: Any) -> None:
    person, kept = await register(), set()
    for text in TEXTS:
        me = await gateway.get("/v1/me", headers=person.bearer)
        headers = person.bearer | MERGE_PATCH | {"If-Match": me.headers["etag"]}
        for field in ("email", "username"):
            if (field, text) != ("username", "a.b.c"):  # which is a name like others
                refused = await gateway.patch(f"/v1/users/{person.id}", json={field: text}, headers=headers)
                assert is_refusal(refused, 422), (field, text)
        answer = await gateway.patch(f"/v1/users/{person.id}", json={"full_name": text}, headers=headers)
        if not is_refusal(answer, 422):
            assert (await gateway.get("/v1/me", headers=person.bearer)).json()["full_name"] == text
            kept.add(text)
    assert kept == {text for text in TEXTS if len(text) < 200 and not set(text) & set("\x00\r\n")}


def forged_cursors(good: str) -> list[str]:
    raw = base64.urlsafe_b64decode(good + "=" * (-len(good) % 4))
    payload, tag = raw[:-16], raw[-16:]
    changed = [
        b'["2020-01-01T00:00:00+00:00",{"$gt":""}]' + tag,
        b'["2020-01-01T00:00:00+00:00","x"]' + tag,
        payload + bytes(16),
        payload[:-1] + bytes([payload[-1] ^ 1]) + tag,
        payload,
        b"",
        b"[" * 300 + tag,
    ]
    return [base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in changed] + [good + "=", good + "\n", "é"]


async def test_only_a_cursor_of_ours_is_read(gateway: httpx.AsyncClient, ada: Any, admin: Any) -> None:
    for number in range(2):
        key = {"Idempotency-Key": f"cursor-{number}"}
        await gateway.post("/v1/orders", json={"items": [ITEM]}, headers=ada.bearer | key)
    for path, who in (("/v1/orders", ada.bearer), ("/v1/users", admin)):
        good = (await gateway.get(path, params={"limit": 1}, headers=who)).json()["next_cursor"]
        assert (await gateway.get(path, params={"limit": 1, "cursor": good}, headers=who)).status_code == 200
        for forged in forged_cursors(good):
            refused = await gateway.get(path, params={"limit": 1, "cursor": forged}, headers=who)
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_cursor"), forged
    orders_cursor = (await gateway.get("/v1/orders", params={"limit": 1}, headers=ada.bearer)).json()["next_cursor"]
    crossed = await gateway.get("/v1/users", params={"cursor": orders_cursor}, headers=admin)
    assert crossed.status_code == 400, "a cursor of one list is none of another's"


@pytest.mark.parametrize("key", ["$where", "a.b", "{$gt:1}", "'--", "../x", "%00", "constructor"])
async def test_an_idempotency_key_is_a_name_and_nothing_else(key: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    placed = await gateway.post("/v1/orders", json={"items": [ITEM]}, headers=ada.bearer | {"Idempotency-Key": key})
    assert placed.json()["id"] == str(uuid.uuid5(uuid.UUID(ada.id), key))
    version = {"If-Match": '"99"', "Idempotency-Key": key}
    moved = await gateway.post(f"/v1/orders/{placed.json()['id']}/cancel", headers=ada.bearer | version)
    assert moved.status_code == 412
