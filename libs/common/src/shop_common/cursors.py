"""Keyset cursors: opaque, bound to the filters of the list they continue, and refused when changed.

A cursor is base64url(JSON position ‖ first 16 bytes of HMAC-SHA256 over list name, filters and position).
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from pydantic import SecretStr

from shop_common.errors import BadRequest

_TAG_BYTES = 16
_MAX_CHARACTERS = 512


class BadCursor(BadRequest):
    code, title = "bad_cursor", "Cursor not valid"


class Listed(Protocol):
    """An entry of a list; its id is unique."""

    @property
    def created_at(self) -> datetime: ...
    @property
    def id(self) -> object: ...


ListedT = TypeVar("ListedT", bound=Listed)


class CursorCodec:
    """Encodes positions `(created_at, id)` of one list, newest first."""

    def __init__(self, list_name: str, key: SecretStr) -> None:
        self._list_name = list_name
        self._key = key.get_secret_value().encode()

    def encode(self, position: tuple[datetime, str], filters: Mapping[str, str | None]) -> str:
        created_at, last_id = position
        payload = json.dumps([created_at.isoformat(), last_id], separators=(",", ":")).encode()
        return _text(payload + self._tag(payload, filters))

    def decode(self, cursor: str | None, filters: Mapping[str, str | None]) -> tuple[datetime, str] | None:
        """The position after which the list goes on; None for the first page; BadCursor (400) otherwise."""
        if cursor is None:
            return None
        if not cursor.isascii() or len(cursor) > _MAX_CHARACTERS:
            raise BadCursor("This cursor was not issued here", pointer="#query/cursor")
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except binascii.Error:
            raw = b""
        if _text(raw) != cursor:  # the decoder forgives what no encoder of ours writes
            raise BadCursor("This cursor was not issued here", pointer="#query/cursor")
        payload, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(payload, filters)):
            raise BadCursor("This cursor was not issued here for these filters", pointer="#query/cursor")
        created_at, last_id = json.loads(payload)
        return datetime.fromisoformat(created_at), last_id

    def page(
        self, found: Sequence[ListedT], limit: int, filters: Mapping[str, str | None]
    ) -> tuple[list[ListedT], str | None]:
        """The first `limit` of what was found, and the cursor that goes on after them where there are more."""
        items = list(found[:limit])
        if len(found) <= limit:
            return items, None
        return items, self.encode((items[-1].created_at, str(items[-1].id)), filters)

    def _tag(self, payload: bytes, filters: Mapping[str, str | None]) -> bytes:
        bound = json.dumps([self._list_name, sorted(filters.items())]).encode()
        return hmac.digest(self._key, len(bound).to_bytes(4) + bound + payload, hashlib.sha256)[:_TAG_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
