"""If-Match: absent 428, not one of our tags 400, another version 412. If-None-Match: what is named is unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop_common.errors import BadRequest, PreconditionFailed, PreconditionRequired
from shop_common.preconditions import check_version, etag, expected_version, is_unchanged


@given(st.integers(min_value=0, max_value=2**31 - 1))
def test_a_tag_comes_back_as_its_version(version: int) -> None:
    assert expected_version(etag(version)) == version
    assert expected_version(f"  {etag(version)} ") == version


def test_no_header_is_428() -> None:
    with pytest.raises(PreconditionRequired):
        expected_version(None)


@pytest.mark.parametrize("header", ["", "3", "*", 'W/"3"', '"3", "4"', '"abc"', '"-1"', '"99999999999"', '"3"x'])
def test_what_is_no_strong_tag_of_ours_is_400(header: str) -> None:
    with pytest.raises(BadRequest) as refused:
        expected_version(header)
    assert refused.value.pointer == "#header/If-Match"


def test_another_version_is_412_and_names_the_current_tag() -> None:
    check_version(current=4, expected=4)
    with pytest.raises(PreconditionFailed) as failed:
        check_version(current=5, expected=4)
    assert failed.value.headers == {"ETag": '"5"'}


@pytest.mark.parametrize(
    "header", ['"3"', 'W/"3"', ' "3" ', '"2", "3"', '"2",W/"3","4"', "*", " * ", ',"3",', '"x" y, "3"']
)
def test_a_reader_that_names_the_tag_has_it(header: str) -> None:
    assert is_unchanged(header, etag(3))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "3",
        '"2"',
        '"33"',
        "'3'",
        '"3',
        '3"',
        'w/"3"',
        "W/3",
        '"2" "3"',
        '"3"x',
        'W/ "3"',
        '*, "2"',
        '"*"',
        ",",
    ],
)
def test_a_reader_that_does_not_name_the_tag_is_sent_it_all(header: str | None) -> None:
    assert not is_unchanged(header, etag(3))
