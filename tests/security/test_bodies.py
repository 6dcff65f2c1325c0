"""Bodies made to cost more than they weigh, or to be read in two ways."""

import gzip
import json
import time
import uuid
import zlib
from typing import Any

import httpx
import pytest

LIMIT = 256 * 1024
KEY = {"Idempotency-Key": "bodies"}
JSON = {"Content-Type": "application/json"}


def order(quantity: str = "1", amount: str = "450", extra: str = "") -> bytes:
    price = f'{{"amount": {amount}, "currency": "EUR"}}'
    return f'{{"items": [{{"sku": "tea-1", "quantity": {quantity}, "unit_price": {price}}}]{extra}}}'.encode()


BOMBS: dict[str, bytes] = {
    "arrays in arrays": b"[" * 100_000,
    "objects in objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "deep and closed": b'{"items":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a number without end": order(quantity="9" * 200_000),
    "an exponent": order(quantity="1e999999"),
    "a negative exponent": order(amount="1e-999999"),
    "a float": order(quantity="1.0"),
    "64 bits and one": order(amount=str(2**64)),
    "not a number": order(quantity="NaN"),
    "infinity": order(amount="Infinity"),
    "negative": order(amount="-1"),
    "half a surrogate pair": order().replace(b"tea-1", rb"\ud800"),
    "a NUL": order().replace(b"tea-1", rb"tea\u0000"),
    "no UTF-8": order().replace(b"tea-1", b"\xff\xfe"),
    "UTF-16 cut in half": order().decode().encode("utf-16")[:-1],
    "many items": b'{"items": [' + b"1," * 80_000 + b"1]}",
    "many unknown fields": json.dumps({f"k{number}": 1 for number in range(20_000)}).encode(),
    "an unknown field with a long name": json.dumps({"k" * 200_000: 1}).encode(),
    "two documents": order() + order(),
    "nothing": b"",
    "null": b"null",
    "a string": b'"items"',
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_a_short_422(name: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    answer = await gateway.post("/v1/orders", content=BOMBS[name], headers=ada.bearer | KEY | JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), name
    assert len(answer.content) < 20_000, "an answer is no echo"
    public = await gateway.post("/v1/users", content=BOMBS[name], headers=JSON)
    assert public.status_code == 422


def test_every_bomb_is_within_the_limit_so_that_more_than_its_length_is_tested() -> None:
    assert all(len(bomb) <= LIMIT for bomb in BOMBS.values())


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"])
async def test_a_compressed_body_is_never_unpacked(encoding: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    """A megabyte of zeros that weighs a kilobyte, and an order that would be good if it were unpacked."""
    for content in (gzip.compress(bytes(10**6)), gzip.compress(order()), zlib.compress(order())):
        headers = ada.bearer | JSON | {"Content-Encoding": encoding, "Idempotency-Key": uuid.uuid4().hex}
        answer = await gateway.post("/v1/orders", content=content, headers=headers)
        assert answer.status_code in {415, 422}


async def test_of_two_values_for_one_name_the_last_counts_everywhere(gateway: httpx.AsyncClient, ada: Any) -> None:
    """One parser reads a body, the owner's: the gateway passes bytes, so there is nobody to disagree with."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = order(extra=', "items": [{"sku": "two", "quantity": 2, "unit_price": {"amount": 1, "currency": "EUR"}}]')
    placed = await gateway.post("/v1/orders", content=body, headers=ada.bearer | key | JSON)
    assert placed.json()["total"] == {"amount": 2, "currency": "EUR"}
    again = await gateway.post("/v1/orders", content=body, headers=ada.bearer | key | JSON)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_a_body_beyond_the_limit_is_413(chunked: bool, gateway: httpx.AsyncClient, ada: Any) -> None:  # noqa: FBT001 - a parameter of the test
    async def pieces() -> Any:
        for _ in range(LIMIT // 1024 + 1):
            yield bytes(1024)

    content = pieces() if chunked else bytes(LIMIT + 1)
    answer = await gateway.post("/v1/orders", content=content, headers=ada.bearer | KEY | JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
async def test_another_kind_of_body_is_no_order(kind: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    headers = ada.bearer | {"Content-Type": kind, "Idempotency-Key": uuid.uuid4().hex}
    assert (await gateway.post("/v1/orders", content=order(), headers=headers)).status_code in {415, 422}


@pytest.mark.parametrize("name", ["fields", "parts", "files", "a field without end", "a boundary without end"])
async def test_a_form_made_to_be_expensive_is_refused(name: str, gateway: httpx.AsyncClient) -> None:
    part = "--b\r\nContent-Disposition: form-data; name=x{}\r\n\r\n1\r\n"
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    content, headers = {
        "fields": ("&".join(f"x{number}=1" for number in range(20_000)), form),
        "parts": ("".join(part.format(number) for number in range(4000)) + "--b--\r\n", multipart),
        "files": ("".join(part.format(f"; filename={number}") for number in range(3000)) + "--b--\r\n", multipart),
        "a field without end": ("username=" + "x" * 200_000, form),
        "a boundary without end": ("--b" * 60_000, {"Content-Type": "multipart/form-data; boundary=" + "b" * 3000}),
    }[name]
    answer = await gateway.post("/v1/auth/token", content=content, headers=headers)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000


@pytest.mark.parametrize(
    "form",
    [
        b"username=%00&password=x",
        b"username=%ff%fe&password=x",
        b"username=%ed%a0%80&password=x",
        b"username=\xff&password=x",
    ],
    ids=ascii,
)
async def test_a_form_that_is_no_text_is_no_login(form: bytes, gateway: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await gateway.post("/v1/auth/token", content=form, headers=headers)
    assert answer.status_code in {400, 401, 422}


async def test_the_gateway_answers_others_while_bombs_are_read(gateway: httpx.AsyncClient, ada: Any) -> None:
    """No stopwatch: the deadline that every request has is the bound."""
    started = time.monotonic()
    for name in ("deep and closed", "many unknown fields", "a number without end"):
        answer = await gateway.post(
            "/v1/orders", content=BOMBS[name], headers=ada.bearer | KEY | JSON | {"X-Deadline-Ms": "9000"}
        )
        assert answer.status_code == 422
    assert (await gateway.get("/v1/me", headers=ada.bearer)).status_code == 200
    assert time.monotonic() - started < 30
