"""Conditional requests: a strong ETag is the entity's version; changes must name the one they saw, reads may."""

import re
from typing import Annotated, Any, Final

from fastapi import Depends, Header
from pydantic.json_schema import SkipJsonSchema

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


async def _named_version(
    if_match: Annotated[str | None, Header(alias="If-Match", include_in_schema=False)] = None,
) -> int:
    return expected_version(if_match)


ExpectedVersion = Annotated[int, Depends(_named_version)]
"""The version that `If-Match` names; 428 without it. Document it with `openapi_extra={"parameters": [IF_MATCH]}`."""

# Written by hand because FastAPI answers 422 for the lack of a header that it knows to be required.
IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The ETag of the version to change",
    "schema": {"type": "string", "pattern": r'^"[0-9]{1,10}"$', "examples": ['"1"']},
}

IfNoneMatch = Annotated[
    str | SkipJsonSchema[None],
    Header(alias="If-None-Match", description="The ETag of the version you have: 304 if it is current"),
]


def is_unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` header names `tag` (answer 304); compared weakly, and what is malformed is ignored."""
    if if_none_match is None:
        return False
    given = [_ENTITY_TAG.fullmatch(part.strip()) for part in if_none_match.split(",")]
    opaque = tag.removeprefix("W/")
    return if_none_match.strip() == "*" or any(match is not None and match[1] == opaque for match in given)


def check_version(current: int, expected: int) -> None:
    """Raise 412, with the current tag, unless the versions agree."""
    if current != expected:
        error = PreconditionFailed(f"The current version is {current}, not {expected}; read it again")
        error.headers["ETag"] = etag(current)
        raise error
