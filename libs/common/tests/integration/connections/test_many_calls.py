"""Very many calls at once, answered, cut, cancelled and late in an order that a seed decides."""

import asyncio
import random
from functools import partial
from typing import Any

from shop_common.connections import open_pool
from shop_common.http1 import CallFailed, CallLate, ConnectionBroken, HttpCall, Response
from shop_common.settings import HttpClientSettings

PLACES, CALLS = 8, 3000
HEAD = b"HTTP/1.1 200 OK\r\n"


async def answer(seeded: random.Random, visit: Any) -> None:
    """With the number in the path, one way or another, or not at all."""
    number = visit.head.split()[1].removeprefix("/").encode()
    for _ in range(seeded.randrange(4)):
        await asyncio.sleep(0)
    match seeded.randrange(10):
        case 0:
            visit.writer.transport.abort()
        case 1:
            await visit.until_cut()
        case 2:
            await visit.say(HEAD + b"Connection: close\r\n\r\n", number)
            visit.writer.close()
        case 3:
            await visit.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(number), number, b"\r\n0\r\n\r\n")
        case _:
            await visit.say(HEAD + b"Content-Length: %d\r\n\r\n" % len(number) + number)


class Outcomes:
    """What each call was told, or that it was cancelled before."""

    def __init__(self) -> None:
        self.told: dict[int, Response | CallFailed] = {}
        self.cancelled: set[int] = set()

    def on_told(self, number: int, result: Response | CallFailed) -> None:
        assert number not in self.told
        assert number not in self.cancelled
        self.told[number] = result

    def cancel(self, number: int, call: HttpCall) -> None:
        if number not in self.told:
            self.cancelled.add(number)
        call.cancel()


async def test_of_many_calls_each_ends_once(peer: Any, begin: Any) -> None:
    seeded, outcomes = random.Random(7), Outcomes()  # noqa: S311 - not a secret
    loop = asyncio.get_running_loop()
    settings = HttpClientSettings(max_connections=PLACES, max_idle_per_host=4, connect_seconds=60)
    async with open_pool(peer.url, settings, 1024) as pool:
        for number in range(CALLS):
            peer.on(f"/{number}", partial(answer, seeded))
            seconds, done = 0.02 + seeded.random() / 10, partial(outcomes.on_told, number)
            call = pool.send("GET", f"/{number}", {}, None, seconds=seconds, done=done)
            if seeded.random() < 0.3:
                loop.call_later(seeded.choice((0, 0.001, 0.01)), outcomes.cancel, number, call)
            if seeded.random() < 0.5:
                await asyncio.sleep(0)
        await peer.until(lambda: len(outcomes.told) + len(outcomes.cancelled) == CALLS)
        bodies = {number: told.body for number, told in outcomes.told.items() if isinstance(told, Response)}
        assert bodies == {number: str(number).encode() for number in bodies}
        assert {type(told) for told in outcomes.told.values()} == {Response, CallLate, ConnectionBroken}
        peer.is_silent("/hold")
        held = [begin(pool, "/hold") for _ in range(PLACES + 1)]
        await peer.until(lambda: peer.targets.count("/hold") == PLACES)
        assert len(pool._open) == PLACES
        assert not any(answer.done() for _, answer in held)
