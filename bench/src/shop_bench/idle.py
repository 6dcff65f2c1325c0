"""Idle event streams on one worker: how many it holds, and what each costs."""

import asyncio
import json
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from typing import Any, Final

import httpx
import psutil  # type: ignore[import-untyped] # it ships no types

from shop_bench.peers import Stage, open_stage, wait_for
from shop_bench.result import Bar, Result
from shop_bench.streams import allow_files
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST

STREAMS: Final = 10_000
CLIENTS: Final = 2
HOLD_SECONDS: Final = 20.0
_PATH: Final = "/v1/me/events"
_HEADINGS: Final = (
    "what holds them",
    "streams",
    "open",
    "opened in, s",
    "heartbeats",
    "lost",
    "RSS before, MB",
    "RSS after, MB",
    "KB each",
    "busy % of a core while idle",
)
_MB: Final = 1024 * 1024
_BAR_MB: Final = 300
_OK: Final = 200


def idle() -> Result:
    allow_files(STREAMS)
    with open_stage() as stage:
        return asyncio.run(_idle(stage))


async def _idle(stage: Stage) -> Result:
    gateway = stage.start_gateway()
    await wait_for(stage.state, gateway.program, gateway.url, stage.bearer)
    url, notes = f"http://{HOST}:{stage.state.ports['gateway']}{_PATH}", []
    program, name = gateway.program, gateway.name
    refusal = await _refusal(url, stage)
    if refusal:
        notes = [
            f"The gateway has no such stream yet ({refusal}): the client was tried against the stub of the services."
        ]
        url, program, name = f"{stage.upstream_url}{_PATH}", "upstream", "the stub"
    seen = await _hold(url, [stage.token(str(uuid.uuid4())) for _ in range(STREAMS)], stage.pid(program))
    row = [
        name,
        f"{STREAMS:,}",
        f"{seen['open']:,}",
        f"{seen['seconds']:.1f}",
        f"{seen['heartbeats']:,} in {HOLD_SECONDS:g} s",
        str(seen["lost"]),
        f"{seen['before'] / _MB:.0f}",
        f"{seen['after'] / _MB:.0f}",
        f"{(seen['after'] - seen['before']) / 1024 / max(1, seen['open']):.1f}",
        f"{seen['busy']:.1f}",
    ]
    if seen["refused"]:
        notes.append(f"Refused, by status: {seen['refused']}.")
    megabytes = seen["after"] / _MB
    bars = [Bar(f"{_BAR_MB} MB with all of them", f"{megabytes:.0f} MB", megabytes <= _BAR_MB)]
    return Result("idle", _HEADINGS, [row], notes, bars, raw=seen)


async def _refusal(url: str, stage: Stage) -> str:
    """Empty where a stream begins, else what is answered instead."""
    async with (
        httpx.AsyncClient(trust_env=False, headers=stage.bearer) as client,
        client.stream("GET", url) as response,
    ):
        kind = response.headers.get("content-type", "")
        if response.status_code == _OK and kind.startswith("text/event-stream"):
            return ""
        return str(response.status_code)


async def _hold(url: str, tokens: list[str], pid: int) -> dict[str, Any]:
    worker = psutil.Process(pid)
    before = worker.memory_info().rss
    clients = [await _start_client(url, tokens[number::CLIENTS]) for number in range(CLIENTS)]
    try:
        opened = [await _line(client) for client in clients]
        cpu = sum(worker.cpu_times()[:2])
        ended = [await _line(client) for client in clients]
        busy = (sum(worker.cpu_times()[:2]) - cpu) / HOLD_SECONDS * 100
        after = worker.memory_info().rss
    finally:
        for client in clients:
            if client.returncode is None:
                client.terminate()
            await client.wait()
    seen: dict[str, Any] = {"before": before, "after": after, "busy": busy}
    seen["seconds"] = max(line["seconds"] for line in opened)
    seen["refused"] = [line["refused"] for line in opened if line["refused"]]
    seen["open"] = sum(line["open"] for line in opened)
    return seen | {name: sum(line[name] for line in ended) for name in ("heartbeats", "events", "lost")}


async def _start_client(url: str, tokens: list[str]) -> Process:
    command = [sys.executable, "-m", "shop_bench.streams", url, str(HOLD_SECONDS)]
    client = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert client.stdin is not None  # noqa: S101 - for the types: it was asked for
    client.stdin.write("\n".join(tokens).encode())
    client.stdin.close()
    return client


async def _line(client: Process) -> dict[str, Any]:
    assert client.stdout is not None  # noqa: S101 - for the types: it was asked for
    try:
        async with asyncio.timeout(HOLD_SECONDS + 60):
            line = await client.stdout.readline()
    except TimeoutError:
        raise ClusterError("the streams' client does not come to its end") from None
    if not line:
        raise ClusterError("the streams' client ended", remedy="see what it said above")
    said: dict[str, Any] = json.loads(line)
    return said
