"""Read your writes: what an answer has shown, and the token by which a later read asks for at least that.

The token is no secret and not signed: whoever makes one up only has the owners asked for what could have come from
memory.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from shop_common.errors import BadRequest
from shop_gateway.models import Answer, Owner

HEADER: Final = "Consistency-Token"
_MAX_TOKENS: Final = 8
_ETAG_VERSION: Final = re.compile(r'"([1-9]\d{0,17})"')
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{50,80}")
_CONTENT: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) ([1-9][0-9]{0,17})")
_SUCCESS: Final = range(200, 300)


class Written(NamedTuple):
    """The version that an aggregate has now, and whose data it is."""

    user_id: str
    aggregate_id: str
    version: int


def create_token(aggregate_id: str, version: int) -> str:
    return urlsafe_b64encode(f"{aggregate_id} {version}".encode()).decode().rstrip("=")


def find_version(answer: Answer) -> int | None:
    """The version that its entity tag names."""
    match = _ETAG_VERSION.fullmatch(answer.headers.get("etag", ""))
    return int(match[1]) if match else None


def find_written(owner: Owner, answer: Answer) -> Written | None:
    """What the answer to a write shows; None where it shows nothing, as one of a login."""
    if answer.status not in _SUCCESS:
        return None
    try:
        document: Mapping[str, Any] = from_json(answer.body)
        user_id = document["user_id" if owner == "orders" else "id"]
        return Written(str(user_id), str(document["id"]), int(document["version"]))
    except (ValueError, TypeError, LookupError):
        return None


def read_tokens(raw: Iterable[tuple[bytes, bytes]]) -> Mapping[str, int]:
    """The versions a request asks for at least, by aggregate; 400 for what is no token of ours."""
    given = b",".join(value for name, value in raw if name == b"consistency-token")
    if not given:
        return {}
    tokens = given.decode("latin-1").split(",")
    if len(tokens) > _MAX_TOKENS:
        raise BadRequest(f"{HEADER} may hold {_MAX_TOKENS} tokens", pointer=f"#header/{HEADER}")
    versions: dict[str, int] = {}
    for token in tokens:
        aggregate_id, version = _decode(token.strip())
        versions[aggregate_id] = max(version, versions.get(aggregate_id, 0))
    return versions


def _decode(token: str) -> tuple[str, int]:
    if _TOKEN.fullmatch(token) and len(token) % 4 != 1:  # as many characters as bytes never take
        content = urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("latin-1")
        if match := _CONTENT.fullmatch(content):
            return match[1], int(match[2])
    raise BadRequest(f"{HEADER} must be as a write's answer gave it", pointer=f"#header/{HEADER}")
