"""Which headers pass, in either direction: those named here and no others, so hop-by-hop ones and cookies never do."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

from shop_common.errors import BadRequest

TO_UPSTREAM = {
    name.encode(): name
    for name in (
        "accept",
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
    )
}
TO_CLIENT = {
    name.encode(): name
    for name in (
        "allow",
        "cache-control",
        "content-type",
        "etag",
        "idempotency-replayed",
        "last-modified",
        "retry-after",
        "vary",
        "www-authenticate",
    )
}
_QUERY_PUNCTUATION = "!$&'()*+,-./:;=?@_~%"
_NO_CACHE = re.compile(rb"(?:^|,)\s*no-cache\s*(?:$|,)", re.IGNORECASE)
_STRICT = re.compile(rb'(?:^|[,;])\s*handling\s*=\s*"?strict"?\s*(?:$|[,;])', re.IGNORECASE)


def to_upstream(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A request's headers as they go onward; 400 for one sent twice, since two readers may each believe another."""
    passed: dict[str, str] = {}
    for raw_name, value in raw:
        name = TO_UPSTREAM.get(raw_name)
        if name is None:
            continue
        if name in passed:
            raise BadRequest(f"{name} was sent more than once", pointer=f"#header/{name}")
        try:
            passed[name] = value.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"{name} is no text", pointer=f"#header/{name}") from None
    return passed


def to_client(given: Mapping[bytes, bytes], origin: str) -> dict[str, str]:
    """An upstream's headers as they go back; a `Location` at `origin` loses it, one elsewhere is dropped.

    UnicodeDecodeError for one that is no text.
    """
    passed = {TO_CLIENT[name]: given[name].decode() for name in TO_CLIENT.keys() & given.keys()}
    if b"location" in given and (location := _public_location(given[b"location"].decode(), origin)):
        passed["location"] = location
    return passed


def _public_location(location: str, origin: str) -> str | None:
    parts = urlsplit(location)
    if not parts.scheme and not parts.netloc:
        return location
    if f"{parts.scheme}://{parts.netloc}" != origin:
        return None
    return parts._replace(scheme="", netloc="").geturl() or "/"


def wants_all_or_nothing(raw: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request's `Prefer` (RFC 7240) says `handling=strict`."""
    return any(name == b"prefer" and _STRICT.search(value) is not None for name, value in raw)


def wants_no_cache(raw: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request's `Cache-Control` has `no-cache`."""
    return any(name == b"cache-control" and _NO_CACHE.search(value) is not None for name, value in raw)


def query_text(raw: bytes) -> str:
    """A query as it came, with whatever RFC 3986 does not let it contain percent-encoded."""
    return quote(raw, safe=_QUERY_PUNCTUATION)
