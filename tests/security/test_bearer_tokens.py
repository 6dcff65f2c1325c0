"""Access tokens signed with the cluster's own key, each wrong in one way, at the gateway and at each service.

What a verifier does with any other token is in libs/common/tests/unit/test_tokens.py and test_token_keys.py.
"""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shop_cluster.pytest_plugin import Cluster

WHERE = ("gateway", "users", "orders")


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(forger: Any, claims: dict[str, Any]) -> str:
    return f"{part({'alg': 'none', 'typ': 'JWT', 'kid': forger.kid})}.{part(claims)}."


def signed_with_public_key(forger: Any, claims: dict[str, Any]) -> str:
    public = forger.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': forger.kid})}.{part(claims)}"
    return f"{text}.{part(hmac.digest(public, text.encode(), hashlib.sha256))}"


def with_claims(**changed: Any) -> Callable[[Any, dict[str, Any]], str]:
    return lambda forger, claims: str(forger.sign(claims | changed))


def with_header(**header: Any) -> Callable[[Any, dict[str, Any]], str]:
    return lambda forger, claims: str(forger.sign(claims, **header))


now = int(time.time())
WRONG: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "alg none": unsigned,
    "HS256 with the public key": signed_with_public_key,
    "expired": with_claims(exp=now - 60),
    "never expires": with_claims(exp=None),
    "not yet valid": with_claims(nbf=now + 3600),
    "issued in the future": with_claims(iat=now + 3600),
    "another audience": with_claims(aud="another"),
    "no audience": with_claims(aud=None),
    "another issuer": with_claims(iss="https://shop.example.evil"),
    "no issuer": with_claims(iss=None),
    "no subject": with_claims(sub=None),
    "a subject that is no user": with_claims(sub="admin"),
    "a role nobody has": with_claims(role="root"),
    "no role": with_claims(role=None),
    "kid is a path": with_header(kid="../../../../../../../../dev/null"),
    "kid is an address": with_header(kid="http://127.0.0.1:1/jwks.json"),
    "kid is a query": with_header(kid="' UNION SELECT 'key' --"),
    "kid is long": with_header(kid="k" * 3000),
    "key beside it": with_header(kid="theirs", jku="http://127.0.0.1:1/", x5u="http://127.0.0.1:1/"),
    "an extension that must be understood": with_header(crit=["exp"], exp=1),
    "too long": with_claims(pad="x" * 4096),
    "cut off": lambda forger, claims: forger.sign(claims)[:-2],
    "no signature": lambda forger, claims: forger.sign(claims).rpartition(".")[0] + ".",
    "another's signature": lambda forger, claims: (
        forger.sign(claims).rpartition(".")[0] + "." + forger.sign(claims | {"role": "admin"}).rpartition(".")[2]
    ),
}


def target(cluster: Cluster, where: str) -> str:
    paths = {"gateway": "/v1/me", "users": "/v1/me", "orders": "/v1/orders"}
    return str(getattr(cluster, f"{where}_url")) + paths[where]


@pytest.mark.parametrize("where", WHERE)
async def test_only_what_is_right_in_every_way_is_taken(where: str, cluster: Cluster, forger: Any, ada: Any) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for name, forge in WRONG.items():
            bearer = {"Authorization": f"Bearer {forge(forger, forger.claims(ada.id))}"}
            refused = await client.get(target(cluster, where), headers=bearer)
            assert refused.status_code == 401, name
            assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            assert refused.headers["content-type"] == "application/problem+json"
        good = {"Authorization": f"Bearer {forger.sign(forger.claims(ada.id))}"}
        assert (await client.get(target(cluster, where), headers=good)).status_code == 200, "the forger forges well"


@pytest.mark.parametrize("where", WHERE)
async def test_a_token_is_taken_from_the_authorization_header_only(where: str, cluster: Cluster, ada: Any) -> None:
    token = ada.bearer["Authorization"].removeprefix("Bearer ")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for elsewhere in (
            {"params": {"access_token": token, "token": token}},
            {"headers": {"Cookie": f"access_token={token}; Authorization=Bearer {token}"}},
            {"headers": {"X-Authorization": f"Bearer {token}", "Proxy-Authorization": f"Bearer {token}"}},
            {"headers": {"X-User-Id": ada.id, "X-Role": "admin", "X-Forwarded-User": ada.id}},
        ):
            assert (await client.get(target(cluster, where), **elsewhere)).status_code == 401


async def test_a_flood_of_unknown_keys_is_a_handful_of_fetches(
    cluster: Cluster, forger: Any, ada: Any, count_requests: Any
) -> None:
    before = await count_requests(cluster.users_url, "/.well-known/jwks.json")
    assert before > 0
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for number in range(60):
            token = forger.sign(forger.claims(ada.id), kid=f"made-up-{number}-{uuid.uuid4()}")
            for where in ("gateway", "orders"):
                refused = await client.get(target(cluster, where), headers={"Authorization": f"Bearer {token}"})
                assert refused.status_code == 401
    asked = await count_requests(cluster.users_url, "/.well-known/jwks.json") - before
    assert asked <= 6, "each of the two asks once in 30 s, however many keys are made up"


async def test_a_replayed_refresh_token_ends_its_family(gateway: httpx.AsyncClient, register: Any) -> None:
    person = await register()

    async def refresh(token: str) -> httpx.Response:
        return await gateway.post("/v1/auth/refresh", json={"refresh_token": token})

    second = (await refresh(person.refresh_token)).json()["refresh_token"]
    third = (await refresh(second)).json()["refresh_token"]
    replayed = await refresh(person.refresh_token)
    assert (replayed.status_code, replayed.json()["code"]) == (401, "invalid_refresh_token")
    assert (await refresh(third)).status_code == 401, "whoever holds the newest may be the thief"


async def test_one_kind_of_token_is_not_the_other(gateway: httpx.AsyncClient, eve: Any) -> None:
    as_access = {"Authorization": f"Bearer {eve.refresh_token}"}
    assert (await gateway.get("/v1/me", headers=as_access)).status_code == 401
    access = eve.bearer["Authorization"].removeprefix("Bearer ")
    assert (await gateway.post("/v1/auth/refresh", json={"refresh_token": access})).status_code == 422
    assert (await gateway.post("/v1/auth/refresh", json={"refresh_token": access[:64]})).status_code in {401, 422}


async def test_who_is_deactivated_gets_no_more_tokens(gateway: httpx.AsyncClient, register: Any) -> None:
    person = await register()
    gone = await gateway.delete(f"/v1/users/{person.id}", headers=person.bearer | {"If-Match": '"1"'})
    assert gone.status_code == 204
    body = {"refresh_token": person.refresh_token}
    assert (await gateway.post("/v1/auth/refresh", json=body)).status_code == 401
