"""Quotas against those who look for a way around them, and what browsers may be made to do with an answer."""

import time
import uuid
from typing import Any

import httpx
import jwt
import pytest

from shop_common.testing import TokenIssuer
from shop_common.tokens import TokenVerifier
from shop_gateway.api import PUBLIC
from shop_gateway.edge import STRICTER

USER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
OTHER_ID = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0002"


def quota(requests: int) -> dict[str, Any]:
    """One that does not come back while a test runs, counted in Redis however busy the machine is."""
    usual = {"requests": requests, "window_seconds": 86_400}
    return usual | {"login": usual, "registration": usual, "key_prefix": f"{uuid.uuid4()}:", "redis_seconds": 60}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was checked."""
    checked: list[str] = []
    decode = TokenVerifier._decode

    def counting(self: TokenVerifier, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        checked.append(token)
        return decode(self, token, key)

    monkeypatch.setattr(TokenVerifier, "_decode", counting)
    return checked


def left(response: httpx.Response) -> str:
    return response.headers["ratelimit"].split(";")[1]


async def test_a_flood_of_bad_tokens_costs_no_more_checks_than_the_quota(
    open_gateway: Any, issuer: TokenIssuer, checks: list[str]
) -> None:
    gateway = await open_gateway(rate_limit=quota(3))
    statuses = []
    for number in range(10):
        forged = issuer.token(USER_ID, jti=str(number))[:-8] + "AAAAAAAA"
        response = await gateway.get("/v1/orders", headers={"Authorization": f"Bearer {forged}"})
        statuses.append(response.status_code)
    assert statuses == [401] * 3 + [429] * 7
    assert len(checks) == 3


async def test_a_good_token_costs_its_address_nothing(
    open_gateway: Any, issuer: TokenIssuer, users: Any, act: Any, checks: list[str]
) -> None:
    users.on("POST /v1/auth/token", act.answer({}))
    gateway = await open_gateway(rate_limit=quota(5))
    for number in range(10):  # twice as many people behind one address as it may send requests
        bearer = issuer.bearer(f"{number:08x}-0000-4000-8000-000000000000")
        for remaining in ("r=4", "r=3"):
            response = await gateway.get("/v1/orders", headers=bearer)
            assert (response.status_code, left(response)) == (200, remaining)
    assert len(checks) == 10
    assert left(await gateway.post("/v1/auth/token")) == "r=4"


async def test_while_an_address_is_refused_those_known_by_their_token_go_on(
    open_gateway: Any, issuer: TokenIssuer
) -> None:
    gateway = await open_gateway(rate_limit=quota(2))
    known = issuer.bearer(USER_ID)
    assert (await gateway.get("/v1/orders", headers=known)).status_code == 200
    assert [(await gateway.get("/v1/orders")).status_code for _ in range(3)] == [401, 401, 429]
    assert (await gateway.get("/v1/orders", headers=known)).status_code == 200
    assert (await gateway.get("/v1/orders", headers=issuer.bearer(OTHER_ID))).status_code == 429


async def test_a_token_that_has_run_out_since_is_its_addresss(
    open_gateway: Any, issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await open_gateway(rate_limit=quota(5))
    known = issuer.bearer(USER_ID)
    assert left(await gateway.get("/v1/orders", headers=known)) == "r=4"
    later = time.time() + 906  # 900 and the leeway
    monkeypatch.setattr("shop_common.tokens.time.time", lambda: later)
    for remaining in ("r=4", "r=3"):
        refused = await gateway.get("/v1/orders", headers=known)
        assert (refused.status_code, left(refused)) == (401, remaining)
        assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(("method", "path"), PUBLIC)
async def test_who_guesses_passwords_is_counted_by_address_whatever_tokens_they_hold(
    method: str, path: str, open_gateway: Any, issuer: TokenIssuer, users: Any, act: Any, checks: list[str]
) -> None:
    users.on(f"{method} {path}", act.answer(await issuer.jwks()))
    gateway = await open_gateway(rate_limit=quota(2))
    statuses = []
    for number in range(4):
        bearer = issuer.bearer(f"{number:08x}-0000-4000-8000-000000000000")
        statuses.append((await gateway.request(method, path, headers=bearer)).status_code)
    assert statuses == [200, 200, 429, 429]
    assert checks == [], "a token nobody asked for is not looked at"


def test_what_counts_under_a_stricter_policy_is_counted_by_address() -> None:
    assert set(STRICTER) <= set(PUBLIC)


async def test_a_client_cannot_hide_behind_addresses_it_makes_up(open_gateway: Any) -> None:
    gateway = await open_gateway(rate_limit=quota(2), trusted_proxies=["127.0.0.0/8"])
    statuses = []
    for number in range(4):
        claimed = {"X-Forwarded-For": f"6.6.6.{number}, 198.51.100.1", "Forwarded": f"for=6.6.6.{number}"}
        claimed |= {"X-Real-Ip": f"6.6.6.{number}", "True-Client-Ip": f"6.6.6.{number}"}
        statuses.append((await gateway.get("/nowhere", headers=claimed)).status_code)
    assert statuses == [404, 404, 429, 429]


async def test_every_answer_tells_browsers_to_take_it_for_what_it_is(
    open_gateway: Any, bearer: dict[str, str], users: Any, act: Any
) -> None:
    users.on("GET /v1/me", act.problem(404, "user_not_found", "X-Content-Type-Options: nosniff"))
    gateway = await open_gateway(rate_limit=quota(6))
    asked = [("/v1/orders", bearer), ("/v1/me", bearer), ("/nowhere", {}), ("/docs", {}), ("/v1/me", {})]
    answers = [await gateway.get(path, headers=headers) for path, headers in asked]
    answers += [await gateway.get("/nowhere") for _ in range(4)]
    assert {answer.status_code for answer in answers} == {200, 404, 401, 429}
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], answer.url
        assert answer.headers.get_list("content-security-policy") == ["frame-ancestors 'none'"]
    late = await gateway.get("/nowhere", headers={"X-Deadline-Ms": "soon"})
    assert (late.status_code, late.headers["x-content-type-options"]) == (400, "nosniff")
    assert late.headers["cache-control"] == "no-store"
