"""Clients that hang up: requests over raw sockets, dropped in the head, in the body, while waiting or in the answer."""

import asyncio
import random
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, get_args

from shop_faults.proxy import HOST

Point = Literal["head", "body", "waiting", "answer"]
POINTS: Final[tuple[Point, ...]] = get_args(Point)

_WAIT_SECONDS: Final = 0.05
"""At most; about as long as a request takes, so that some are dropped at each step of it."""
_EXCHANGE_SECONDS: Final = 30.0
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Exchange:
    """`dropped_at` is None where the answer was wanted; `status` where none came, or was read."""

    dropped_at: Point | None
    status: int | None


def http_request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """For one connection, which the answer ends."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def send_all(
    port: int, requests: Sequence[bytes], *, share_dropped: float, seed: int, at_once: int = 50
) -> list[Exchange]:
    """Send each on a connection of its own, `at_once` at a time, and drop a random share; results in their order."""
    numbers = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
    points = [numbers.choice(POINTS) if numbers.random() < share_dropped else None for _ in requests]
    results: list[Exchange] = [Exchange(None, None)] * len(requests)
    left = iter(range(len(requests)))

    async def work() -> None:
        for index in left:
            results[index] = Exchange(points[index], await exchange(port, requests[index], points[index], numbers))

    async with asyncio.TaskGroup() as workers:
        for _ in range(at_once):
            workers.create_task(work())
    return results


async def exchange(port: int, request: bytes, drop_at: Point | None, numbers: random.Random) -> int | None:
    """The status, or None where the request was dropped, or no answer came in 30 s."""
    try:
        async with asyncio.timeout(_EXCHANGE_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                return await _exchange(reader, writer, request, drop_at, numbers)
            finally:
                await _hang_up(writer, reset=numbers.random() < 0.5)  # otherwise in order: servers see both
    except (OSError, asyncio.IncompleteReadError):
        return None


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: bytes,
    drop_at: Point | None,
    numbers: random.Random,
) -> int | None:
    head = request.index(b"\r\n\r\n") + 4
    if drop_at == "head":
        writer.write(request[: numbers.randrange(1, head)])
        await writer.drain()
    elif drop_at == "body" and len(request) > head:
        writer.write(request[: numbers.randrange(head, len(request))])
        await writer.drain()
        await asyncio.sleep(numbers.uniform(0, _WAIT_SECONDS))
    else:
        writer.write(request)
        await writer.drain()
        if drop_at is None:
            answer = await reader.read(-1)
            return int(answer.split(b" ", 2)[1]) if answer else None
        if drop_at == "answer":
            await reader.readexactly(1)
        else:
            await asyncio.sleep(numbers.uniform(0, _WAIT_SECONDS))
    return None


async def _hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()
