"""The token of a write: what it names, and what is refused."""

import json
import uuid
from base64 import urlsafe_b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop_common.errors import BadRequest
from shop_gateway.consistency import Written, create_token, find_version, find_written, read_tokens
from shop_gateway.models import Answer

ADA, ORDER = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001", "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0002"


def answer(document: object, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps(document).encode())


def test_an_order_names_its_user_and_its_version() -> None:
    written = find_written("orders", answer({"id": ORDER, "user_id": ADA, "version": 3}, 201))
    assert written == Written(ADA, ORDER, 3)


def test_a_user_is_their_own() -> None:
    assert find_written("users", answer({"id": ADA, "version": 3})) == Written(ADA, ADA, 3)


@pytest.mark.parametrize(
    "given_answer",
    [
        answer({"id": ORDER, "user_id": ADA, "version": 3}, 409),
        answer({"access_token": "secret"}),
        answer([1]),
        Answer(204, {}, b""),
        Answer(200, {}, b"{"),
    ],
)
def test_other_answers_name_nothing(given_answer: Answer) -> None:
    assert find_written("orders", given_answer) is None


@pytest.mark.parametrize(("etag", "version"), [('"7"', 7), ('W/"7"', None), ('"0"', None), ('"abc"', None), ("", None)])
def test_an_entity_tag_may_be_a_version(etag: str, version: int | None) -> None:
    assert find_version(Answer(200, {"etag": etag}, b"")) == version


@given(st.lists(st.tuples(st.uuids(), st.integers(1, 10**17)), min_size=1, max_size=8))
def test_tokens_come_back_as_what_they_were_made_of(pairs: list[tuple[uuid.UUID, int]]) -> None:
    tokens = ", ".join(create_token(str(aggregate_id), version) for aggregate_id, version in pairs)
    versions = read_tokens([(b"consistency-token", tokens.encode())])
    assert versions == {str(name): max(each for other, each in pairs if other == name) for name, _ in pairs}


def test_several_headers_are_one_list_and_none_asks_for_nothing() -> None:
    tokens = [create_token(aggregate_id, 2).encode() for aggregate_id in (ADA, ORDER)]
    raw = [(b"accept", b"*/*"), *((b"consistency-token", token) for token in tokens)]
    assert read_tokens(raw) == {ADA: 2, ORDER: 2}
    assert read_tokens(raw[:1]) == {}


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "=" * 60,
        "A" * 53,
        encoded("x" * 40),
        encoded(f"{ADA} 0"),
        encoded(f"{ADA} -1"),
        encoded(f"{ADA} 1e9"),
        encoded(f"{ADA.upper()} 1"),
        encoded(f"{ADA} {'9' * 19}"),
        ",".join([create_token(ADA, 1)] * 9),
        f"{create_token(ADA, 1)},",
        "\xff" * 60,
    ],
)
def test_what_is_none_of_ours_is_refused(token: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_tokens([(b"consistency-token", token.encode("latin-1"))])
    assert refused.value.pointer == "#header/Consistency-Token"


@given(st.binary(max_size=200))
def test_nothing_else_is_ever_raised(raw: bytes) -> None:
    with suppress(BadRequest):
        read_tokens([(b"consistency-token", raw)])
