"""Cursors: what was issued comes back, anything else is a 400."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shop_common.cursors import BadCursor, CursorCodec

KEY = SecretStr("k" * 32)
POSITION = (datetime(2026, 5, 1, 12, 30, 15, 123456, UTC), "9b2e1c")
FILTERS = {"user_id": "u1", "status": None}
CODEC = CursorCodec("orders", KEY)
CURSOR = CODEC.encode(POSITION, FILTERS)
TEXT = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=.% \x00é"


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.text(max_size=60),
    st.dictionaries(st.text(max_size=9), st.none() | st.text()),
)
def test_a_position_comes_back(created_at: datetime, last_id: str, filters: dict[str, str | None]) -> None:
    cursor = CODEC.encode((created_at, last_id), filters)
    if len(cursor) <= 512:
        assert CODEC.decode(cursor, filters) == (created_at, last_id)


@dataclass(frozen=True)
class Entry:
    id: int
    created_at: datetime = POSITION[0]


@pytest.mark.parametrize(("count", "kept", "last"), [(0, 0, None), (2, 2, None), (3, 3, None), (4, 3, "2")])
def test_a_page_goes_on_where_more_was_found(count: int, kept: int, last: str | None) -> None:
    items, cursor = CODEC.page([Entry(number) for number in range(count)], 3, FILTERS)
    assert items == [Entry(number) for number in range(kept)]
    after = CODEC.decode(cursor, FILTERS)
    assert after == (None if last is None else (POSITION[0], last))


def test_no_cursor_is_the_first_page() -> None:
    assert CODEC.decode(None, FILTERS) is None


def test_the_order_of_filters_does_not_matter() -> None:
    assert CODEC.decode(CURSOR, dict(reversed(FILTERS.items()))) == POSITION


@given(st.integers(0, len(CURSOR) - 1), st.sampled_from(TEXT))
def test_no_character_can_be_changed(index: int, replacement: str) -> None:
    changed = CURSOR[:index] + replacement + CURSOR[index + 1 :]
    if changed != CURSOR:
        with pytest.raises(BadCursor):
            CODEC.decode(changed, FILTERS)


@given(st.text(TEXT, max_size=80))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(BadCursor) as refused:
        CODEC.decode(text, FILTERS)
    assert refused.value.pointer == "#query/cursor"


@pytest.mark.parametrize("cursor", ["", "=", CURSOR + "=", CURSOR + "A", CURSOR[:-1], "A" * 513, "A" * 10_000])
def test_malformed_and_oversized_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        CODEC.decode(cursor, FILTERS)


@pytest.mark.parametrize(
    ("codec", "filters"),
    [
        (CODEC, {"user_id": "u2", "status": None}),
        (CODEC, {"user_id": "u1"}),
        (CODEC, {"user_id": "u1", "status": ""}),
        (CursorCodec("users", KEY), FILTERS),
        (CursorCodec("orders", SecretStr("x" * 32)), FILTERS),
    ],
    ids=["another user", "fewer filters", "empty for none", "another list", "another key"],
)
def test_a_cursor_is_good_for_its_list_filters_and_key_only(codec: CursorCodec, filters: dict[str, str | None]) -> None:
    with pytest.raises(BadCursor):
        codec.decode(CURSOR, filters)
