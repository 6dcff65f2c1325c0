"""Optimistic concurrency over HTTP: a strong ETag is the entity's version; changes must name the one they saw."""

import re

from shop_common.errors import BadRequest, PreconditionFailed, PreconditionRequired

_ENTITY_TAG = re.compile(r'"(\d{1,10})"')


def etag(version: int) -> str:
    return f'"{version}"'


def expected_version(if_match: str | None) -> int:
    """The version an `If-Match` header names; 428 without the header, 400 for what is no strong tag of ours."""
    if if_match is None:
        raise PreconditionRequired("Send If-Match with the ETag of the version you want to change")
    match = _ENTITY_TAG.fullmatch(if_match.strip())
    if match is None:
        raise BadRequest('If-Match must be one strong entity tag such as "3"', pointer="#header/If-Match")
    return int(match[1])


def check_version(current: int, expected: int) -> None:
    """Raise 412, with the current tag, unless the versions agree."""
    if current != expected:
        error = PreconditionFailed(f"The current version is {current}, not {expected}; read it again")
        error.headers["ETag"] = etag(current)
        raise error
