"""Access tokens: what is accepted, and everything that is not, with the right answer each time."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import APIRouter
from hypothesis import given
from hypothesis import strategies as st

from shop_common import tokens
from shop_common.errors import Unauthenticated
from shop_common.settings import TokenSettings
from shop_common.testing import TokenIssuer, open_app_client
from shop_common.tokens import CurrentAdmin, CurrentPrincipal, KeyCache, Principal, TokenVerifier

ISSUER = TokenIssuer()
ADA, BOB = str(UUID(int=1)), str(UUID(int=2))


def part(value: object) -> str:
    """One segment of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def public_pem() -> bytes:
    key = ISSUER._private_key.public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def claims() -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(ISSUER.token(ADA), options={"verify_signature": False})
    return decoded


async def refusal(token: str, verifier: TokenVerifier | None = None) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refused:
        await (verifier or ISSUER.verifier()).verify(token)
    assert refused.value.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert refused.value.__cause__ is None
    return refused.value


async def test_a_good_token_names_its_principal() -> None:
    principal = await ISSUER.verifier().verify(ISSUER.token(ADA, "admin"))
    assert (principal.user_id, principal.role, principal.is_admin) == (ADA, "admin", True)


def test_who_may_see_whom() -> None:
    customer, admin = Principal(ADA, "customer", 0), Principal(BOB, "admin", 0)
    assert customer.may_see(ADA)
    assert not customer.may_see(BOB)
    assert admin.may_see(ADA)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE"])
async def test_no_algorithm_is_refused(algorithm: str) -> None:
    header = {"alg": algorithm, "typ": "JWT", "kid": ISSUER.kid}
    await refusal(f"{part(header)}.{part(claims())}.")


async def test_the_public_key_is_no_shared_secret() -> None:
    """The classic confusion: HS256 over the public key, which everybody has."""
    for secret in (public_pem(), json.dumps((await ISSUER.jwks())["keys"][0]).encode()):
        signed = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': ISSUER.kid})}.{part(claims())}"
        tag = hmac.digest(secret, signed.encode(), hashlib.sha256)
        await refusal(f"{signed}.{part(tag)}")


async def test_another_curve_and_another_algorithm_are_refused() -> None:
    for key, algorithm in (
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (rsa.generate_private_key(65537, 2048), "RS256"),
    ):
        await refusal(jwt.encode(claims(), key, algorithm, headers={"kid": ISSUER.kid}))


async def test_anothers_signature_under_our_key_id_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    await refusal(jwt.encode(claims(), key, "ES256", headers={"kid": ISSUER.kid}))


async def test_a_key_in_the_tokens_own_header_is_not_used() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    await refusal(jwt.encode(claims(), key, "ES256", headers={"kid": "theirs", "jwk": own}))


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://elsewhere"},
        {"aud": "another"},
        {"exp": 1},
        {"iat": 2**40},
        {"nbf": 2**40},
        {"exp": "soon"},
        {"exp": 4e9},
        {"sub": 7},
        {"sub": "ada"},
        {"sub": f"{ADA}x"},
        {"role": "root"},
        {"role": ["admin"]},
        *({name: None} for name in ("iss", "aud", "exp", "iat", "sub", "role")),
    ],
    ids=str,
)
async def test_wrong_or_missing_claims_are_refused(changed: dict[str, Any]) -> None:
    await refusal(ISSUER.token(ADA, **changed))


async def test_an_expired_token_says_so() -> None:
    assert "expired" in (await refusal(ISSUER.token(ADA, exp=1))).detail


async def test_an_oversized_token_is_refused_without_a_look() -> None:
    async def never() -> Any:
        raise AssertionError("no key is needed")

    await refusal("x" * 4097, TokenVerifier(ISSUER.settings, KeyCache(never)))
    await refusal(ISSUER.token(ADA, pad="x" * 4096))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "é.é.é",
        "\ud800",
        f"{part(b'[' * 2500)}.e30.e30",
        f"{part([])}.e30.e30",
        f"{part(b'1' * 3000)}.e30.e30",
        f"{part({'alg': 'ES256'})}.e30.e30",
        f"{part({'alg': 'ES256', 'kid': 7})}.e30.e30",
        f"{part({'alg': 'ES256', 'kid': None})}.e30.e30",
        f"{part({'alg': 'ES256', 'kid': ISSUER.kid})}.{part(b'[' * 500)}.e30",
    ],
)
async def test_a_malformed_token_is_refused(token: str) -> None:
    await refusal(token)


@given(st.text(max_size=200))
async def test_garbage_is_refused(token: str) -> None:
    await refusal(token)


@given(st.integers(min_value=0), st.integers(0, 5))
async def test_no_bit_of_a_token_can_be_changed(position: int, bit: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = GOOD_TOKEN
    index = position % len(token)
    if token[index] != ".":
        changed = alphabet[alphabet.index(token[index]) ^ (1 << bit)]
        await refusal(token[:index] + changed + token[index + 1 :])


GOOD_TOKEN = ISSUER.token(ADA)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time by which remembered tokens expire."""
    now = time.time()

    class Clock:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return now

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(tokens, "time", Clock)
    return forward


async def test_a_remembered_token_still_expires(clock: Callable[[float], None]) -> None:
    verifier, token = ISSUER.verifier(), ISSUER.token(ADA)
    await verifier.verify(token)
    clock(904)  # 900 and the leeway of 5
    assert (await verifier.verify(token)).user_id == ADA
    clock(2)
    assert "expired" in (await refusal(token, verifier)).detail
    assert not verifier._remembered


async def test_a_token_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, token, checks = ISSUER.verifier(), ISSUER.token(ADA), 0
    decode = verifier._decode

    def counting(token: str, key: jwt.PyJWK) -> dict[str, Any]:
        nonlocal checks
        checks += 1
        return decode(token, key)

    monkeypatch.setattr(verifier, "_decode", counting)
    for _ in range(3):
        await verifier.verify(token)
    assert checks == 1


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_REMEMBERED", 2)
    verifier = ISSUER.verifier()
    users = [str(uuid4()) for _ in range(4)]
    for user_id in users:
        await verifier.verify(ISSUER.token(user_id))
    assert [principal.user_id for _, principal in verifier._remembered.values()] == users[2:]


async def test_a_refused_token_is_not_remembered() -> None:
    verifier = ISSUER.verifier()
    await refusal(ISSUER.token(ADA, aud="another"), verifier)
    assert not verifier._remembered


async def test_issuer_and_audience_come_from_the_settings() -> None:
    issuer = TokenIssuer(TokenSettings(issuer="https://a", audience="b"))
    assert (await issuer.verifier().verify(issuer.token(ADA))).user_id == ADA
    await refusal(issuer.token(ADA), TokenVerifier(TokenSettings(), KeyCache(issuer.jwks)))


async def test_routes_ask_for_a_principal_or_an_administrator(build_app: Any) -> None:
    router = APIRouter()

    @router.get("/me")
    async def me(principal: CurrentPrincipal) -> str:
        return principal.user_id

    @router.get("/all")
    async def everybody(admin: CurrentAdmin) -> str:
        return admin.user_id

    app = build_app(router)
    async with open_app_client(app) as client:
        app.state.resources = type("WithTokens", (), {"tokens": ISSUER.verifier()})
        for headers in ({}, {"Authorization": "Basic dTpw"}, {"Authorization": "Bearer"}):
            answer = await client.get("/me", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["code"] == "unauthenticated"
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/me", headers=ISSUER.bearer(ADA))).json() == ADA
        refused = await client.get("/all", headers=ISSUER.bearer(ADA))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await client.get("/all", headers=ISSUER.bearer(BOB, "admin"))).json() == BOB
