"""Conditional requests: a strong ETag is the entity's version; changes must name the one they saw, reads may."""

import re

from shop_common.errors import BadRequest, PreconditionFailed, PreconditionRequired

_VERSION = re.compile(r'"(\d{1,10})"')
_ENTITY_TAG = re.compile(r'(?:W/)?("[!\x23-\x7e\x80-\xff]*")', re.ASCII)  # RFC 9110, section 8.8.3


def etag(version: int) -> str:
    return f'"{version}"'


def expected_version(if_match: str | None) -> int:
    """The version an `If-Match` header names; 428 without the header, 400 for what is no strong tag of ours."""
    if if_match is None:
        raise PreconditionRequired("Send If-Match with the ETag of the version you want to change")
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        raise BadRequest('If-Match must be one strong entity tag such as "3"', pointer="#header/If-Match")
    return int(match[1])


def is_unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` header names `tag` (answer 304); compared weakly, and what is malformed is ignored."""
    if if_none_match is None:
        return False
    given = [_ENTITY_TAG.fullmatch(part.strip()) for part in if_none_match.split(",")]
    return if_none_match.strip() == "*" or any(match is not None and match[1] == tag for match in given)


def check_version(current: int, expected: int) -> None:
    """Raise 412, with the current tag, unless the versions agree."""
    if current != expected:
        error = PreconditionFailed(f"The current version is {current}, not {expected}; read it again")
        error.headers["ETag"] = etag(current)
        raise error
