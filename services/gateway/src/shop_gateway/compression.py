"""Answers compressed for who takes that."""

import asyncio
import gzip
from typing import Final

LEAST_BYTES: Final = 1024
LEVEL: Final = 4
_THREAD_BYTES: Final = 128 * 1024


def takes_gzip(accept_encoding: str) -> bool:
    return "gzip" in accept_encoding


def compress(body: bytes) -> bytes:
    return gzip.compress(body, LEVEL, mtime=0)


async def compress_any(body: bytes) -> bytes:
    """In a thread where it would hold up others."""
    return compress(body) if len(body) < _THREAD_BYTES else await asyncio.to_thread(compress, body)
