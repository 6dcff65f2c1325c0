"""Answers compressed for who takes that."""

import asyncio
import gzip
from collections.abc import MutableMapping
from typing import Final

LEAST_BYTES: Final = 1024
LEVEL: Final = 4
_THREAD_BYTES: Final = 128 * 1024


def takes_gzip(accept_encoding: str) -> bool:
    return "gzip" in accept_encoding


def compress(body: bytes) -> bytes:
    return gzip.compress(body, LEVEL, mtime=0)


async def encoded(headers: MutableMapping[str, str], body: bytes, accept_encoding: str) -> bytes:
    """As the client takes it, which the headers are made to say; in a thread where it would hold up others."""
    if len(body) < LEAST_BYTES:
        return body
    vary = headers.get("vary")
    headers["vary"] = f"{vary}, Accept-Encoding" if vary else "Accept-Encoding"
    if not takes_gzip(accept_encoding):
        return body
    headers["content-encoding"] = "gzip"
    return compress(body) if len(body) < _THREAD_BYTES else await asyncio.to_thread(compress, body)
