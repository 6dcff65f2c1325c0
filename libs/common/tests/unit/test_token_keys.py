"""The issuer's keys: asked for seldom, believed while it is silent, forgotten once it withdraws them."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from shop_common.errors import Unauthenticated, Unavailable
from shop_common.testing import TokenIssuer
from shop_common.tokens import KeyCache, TokenVerifier, fetch_keys_from

ADA = str(uuid4())


class Issuer:
    """Publishes the keys of some issuers, or fails, and counts how often it is asked; its clock is the cache's."""

    def __init__(self, *issuers: TokenIssuer) -> None:
        self.issuers = list(issuers)
        self.error: Exception | None = None
        self.extra: list[Any] = []
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()
        self.now = 1000.0
        self.keys = KeyCache(self.fetch, clock=lambda: self.now)

    async def fetch(self) -> Mapping[str, Any]:
        self.asked += 1
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        published = [key for issuer in self.issuers for key in (await issuer.jwks())["keys"]]
        return {"keys": self.extra + published}


OLD, NEW = TokenIssuer(), TokenIssuer()


async def kid_of(issuer: Issuer, wanted: TokenIssuer) -> str | None:
    key = await issuer.keys.find(wanted.kid)
    return key.key_id if key else None


async def test_a_known_key_is_fetched_once() -> None:
    issuer = Issuer(OLD)
    for _ in range(5):
        assert await kid_of(issuer, OLD) == OLD.kid
    assert issuer.asked == 1


async def test_a_flood_of_unknown_keys_causes_one_fetch_per_30_seconds() -> None:
    issuer = Issuer(OLD)
    for expected in (1, 2, 3):
        found = await asyncio.gather(*(issuer.keys.find(f"made-up-{number}") for number in range(50)))
        assert set(found) == {None}
        assert issuer.asked == expected
        issuer.now += 29.9
        assert await issuer.keys.find("made-up") is None
        assert issuer.asked == expected
        issuer.now += 0.1


async def test_a_rotated_key_is_found_and_the_old_one_stays_while_published() -> None:
    issuer = Issuer(OLD)
    await kid_of(issuer, OLD)
    issuer.issuers.append(NEW)
    issuer.now += 30
    assert await kid_of(issuer, NEW) == NEW.kid
    assert await kid_of(issuer, OLD) == OLD.kid
    assert issuer.asked == 2


async def test_a_withdrawn_key_is_forgotten_and_its_remembered_tokens_with_it() -> None:
    issuer = Issuer(OLD, NEW)
    verifier, token = TokenVerifier(OLD.settings, issuer.keys), OLD.token(ADA)
    await verifier.verify(token)
    issuer.issuers.remove(OLD)
    issuer.now += 299
    assert (await verifier.verify(token)).user_id == ADA
    issuer.now += 1
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)
    assert issuer.asked == 2
    assert not verifier._remembered


async def test_a_silent_issuer_is_no_reason_to_refuse_keys_already_known() -> None:
    issuer = Issuer(OLD)
    await kid_of(issuer, OLD)
    issuer.error = httpx.ConnectError("down")
    issuer.now += 10_000
    for _ in range(10):
        assert await kid_of(issuer, OLD) == OLD.kid
    assert issuer.asked == 2
    issuer.now += 30
    assert await kid_of(issuer, OLD) == OLD.kid
    assert issuer.asked == 3


async def test_a_key_that_cannot_be_asked_for_is_503_not_401() -> None:
    issuer = Issuer(OLD)
    await kid_of(issuer, OLD)
    issuer.error = httpx.ConnectError("down")
    issuer.now += 30
    for _ in range(3):
        with pytest.raises(Unavailable):
            await issuer.keys.find("perhaps-new")
    assert issuer.asked == 2
    issuer.error = None
    issuer.now += 30
    assert await issuer.keys.find("perhaps-new") is None


async def test_without_any_key_a_failed_fetch_is_tried_again_each_second_not_by_each_request() -> None:
    issuer = Issuer(OLD)
    issuer.error = OSError("refused")
    for expected in (1, 2):
        for outcome in await asyncio.gather(*(issuer.keys.find(OLD.kid) for _ in range(20)), return_exceptions=True):
            assert isinstance(outcome, Unavailable)
        assert issuer.asked == expected
        issuer.now += 1
    issuer.error = None
    assert await kid_of(issuer, OLD) == OLD.kid


async def test_a_cancelled_fetch_neither_wedges_the_cache_nor_is_repeated_by_all() -> None:
    issuer = Issuer(OLD)
    issuer.answer.clear()
    first = asyncio.create_task(issuer.keys.find(OLD.kid))
    others = [asyncio.create_task(issuer.keys.find(OLD.kid)) for _ in range(10)]
    await asyncio.sleep(0)
    first.cancel()
    assert all(isinstance(each, Unavailable) for each in await asyncio.gather(*others, return_exceptions=True))
    assert issuer.asked == 1
    issuer.answer.set()
    issuer.now += 1
    assert await kid_of(issuer, OLD) == OLD.kid


async def test_a_known_key_does_not_wait_for_a_refresh_under_way() -> None:
    issuer = Issuer(OLD)
    await kid_of(issuer, OLD)
    issuer.answer.clear()
    issuer.now += 300
    refreshing = asyncio.create_task(issuer.keys.find(OLD.kid))
    await asyncio.sleep(0)
    assert not refreshing.done()
    async with asyncio.timeout(1):
        assert await kid_of(issuer, OLD) == OLD.kid
    issuer.answer.set()
    assert await refreshing is not None
    assert issuer.asked == 2


async def test_an_issuer_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop_common.tokens._FETCH_SECONDS", 0.02)
    issuer = Issuer(OLD)
    issuer.answer.clear()
    with pytest.raises(Unavailable):
        await issuer.keys.find(OLD.kid)


async def test_keys_for_other_purposes_are_passed_over() -> None:
    rsa_key = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), as_dict=True)
    [usable] = (await NEW.jwks())["keys"]
    issuer = Issuer(OLD)
    issuer.extra = [rsa_key | {"kid": "rsa"}, usable | {"kid": None}, usable | {"crv": "P-384"}, {}]
    assert await issuer.keys.find("rsa") is None
    assert await kid_of(issuer, OLD) == OLD.kid


@pytest.mark.parametrize(
    "document",
    [{}, [], None, {"keys": None}, {"keys": []}, {"keys": [1]}, {"keys": [{"kty": "EC", "crv": "P-256", "kid": "k"}]}],
    ids=str,
)
async def test_a_document_that_is_no_key_set_changes_nothing(document: Any) -> None:
    answers = [await OLD.jwks(), document]
    now = 0.0

    async def fetch() -> Any:
        return answers.pop(0)

    keys = KeyCache(fetch, clock=lambda: now)
    assert await keys.find(OLD.kid) is not None
    now += 300
    assert await keys.find(OLD.kid) is not None
    assert answers == []
    with pytest.raises(Unavailable):
        await keys.find("another")


async def test_keys_are_read_over_http() -> None:
    answers = [httpx.Response(200, json=dict(await OLD.jwks())), httpx.Response(500, json={"keys": []})]
    transport = httpx.MockTransport(lambda request: answers.pop(0))
    async with httpx.AsyncClient(transport=transport) as client:
        fetch = fetch_keys_from(client, "http://issuer/.well-known/jwks.json")
        assert await fetch() == await OLD.jwks()
        with pytest.raises(httpx.HTTPStatusError):
            await fetch()
