"""Many idle server-sent event streams from one process: `python -m shop_bench.streams URL SECONDS`, tokens on stdin.

One stream per line of standard input. Prints a JSON line when all are open, and another after that many seconds.
"""

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

import uvloop

_AT_ONCE: Final = 64
_OPEN_SECONDS: Final = 30
_OK: Final = "200"
_SPARE_FILES: Final = 200


class Stream(asyncio.Protocol):
    """Counts the comments that come: `opened` is the status, or why there is none."""

    def __init__(self, counts: Counter[str], opened: asyncio.Future[str]) -> None:
        self._counts = counts
        self._opened = opened
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._opened.done():
            head, end, body = self._rest.partition(b"\r\n\r\n")
            if not end:
                return
            self._opened.set_result(head.split(b" ", 2)[1].decode("latin-1"))
            self._rest = body
        *lines, self._rest = self._rest.split(b"\n")  # those that frame chunks begin otherwise
        self._counts["heartbeats"] += sum(line.startswith(b":") for line in lines)
        self._counts["events"] += sum(line.startswith(b"data:") for line in lines)

    def connection_lost(self, _: Exception | None) -> None:
        self._counts["lost"] += 1
        if not self._opened.done():
            self._opened.set_result("closed")


def allow_files(count: int) -> None:
    """Have this process, and those it starts, open that many connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + _SPARE_FILES:
        sys.exit(f"{count} connections need more open files than {hard}: raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + _SPARE_FILES, hard))


async def hold(url: str, tokens: list[str], seconds: float) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    turns = asyncio.Semaphore(_AT_ONCE)
    loop = asyncio.get_running_loop()

    async def open_one(token: str) -> None:
        lines = (f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Accept: text/event-stream")
        request = "\r\n".join([*lines, f"Authorization: Bearer {token}", "", ""]).encode()
        opened: asyncio.Future[str] = loop.create_future()
        async with turns:
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    transport, _ = await loop.create_connection(lambda: Stream(counts, opened), host, port)
                    transport.write(request)
                    statuses[await opened] += 1
            except OSError as error:
                statuses[type(error).__name__] += 1

    started = time.monotonic()
    await asyncio.gather(*(open_one(token) for token in tokens))
    refused = {status: count for status, count in statuses.items() if status != _OK}
    _say({"open": statuses[_OK], "refused": refused, "seconds": round(time.monotonic() - started, 2)})
    await asyncio.sleep(seconds)
    _say({name: counts[name] for name in ("heartbeats", "events", "lost")})


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    given = sys.stdin.read().split()
    allow_files(len(given))
    uvloop.run(hold(sys.argv[1], given, float(sys.argv[2])))
