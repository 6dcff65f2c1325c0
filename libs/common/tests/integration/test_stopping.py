"""A process told to stop: not ready first, then deaf, and gone in bounded time whatever does not answer any more."""

import asyncio
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

KINDS = pytest.mark.parametrize(
    ("kind", "workers"), [("api", 1), ("api", 2), ("worker", 1)], ids=["an API", "an API of several", "a worker"]
)
LONG = 300
BOUND_SECONDS = 40
"""Well above what the bounds of a stop add up to here, and below what any of the waits would take without its own."""


async def status(program: Any, path: str) -> int:
    return int((await program.get(path)).status_code)


async def is_deaf(program: Any) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", program.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@KINDS
async def test_it_is_not_ready_first_and_serves_on(start: Any, until: Any, kind: str, workers: int) -> None:
    program = await start(kind, SAMPLE_HTTP__DRAIN_SECONDS=LONG, SAMPLE_HTTP__WORKERS=workers)

    async def all_started() -> bool:
        return kind == "worker" or len({(await program.get("/pid")).text for _ in range(4 * workers)}) == workers

    await until(all_started)
    assert await status(program, "/readyz") == 200
    program.process.send_signal(signal.SIGTERM)

    async def all_stopping() -> bool:
        return {await status(program, "/readyz") for _ in range(4 * workers)} == {503}

    await until(all_stopping)
    answer = await program.get("/readyz")
    assert answer.json() == {"status": "stopping", "checks": {}}
    assert (await program.get("/health")).json()["status"] == "stopping"
    live = await program.get("/livez")
    assert (live.status_code, live.headers["connection"]) == (200, "close")
    if kind == "api":
        assert await status(program, "/pid") == 200
    async with asyncio.timeout(BOUND_SECONDS):  # the second signal ends the wait
        ended = await program.ends(signal.SIGTERM)
    assert (ended.code, ended.err) == (0, [])
    assert sum(line["message"] == "resources closed" for line in ended.out) == workers


async def test_the_balancers_time_ends_by_itself(start: Any) -> None:
    program = await start("api", SAMPLE_HTTP__DRAIN_SECONDS=0.5)
    await program.get("/readyz")
    assert (await program.ends(signal.SIGTERM)).code == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_request_under_way_is_finished_and_idle_connections_are_closed(
    start: Any, until: Any, tmp_path: Path, workers: int
) -> None:
    program = await start("api", SAMPLE_HTTP__WORKERS=workers)
    await program.get("/readyz")
    url = f"http://127.0.0.1:{program.port}"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client, httpx.AsyncClient(trust_env=False) as idle:
        assert (await idle.get(f"{url}/pid")).status_code == 200
        held = asyncio.create_task(client.get(f"{url}/held/file"))

        async def begun() -> bool:
            return (tmp_path / "file.begun").exists()

        async def deaf() -> bool:
            return await is_deaf(program)

        await until(begun)
        program.process.send_signal(signal.SIGTERM)
        await until(deaf)
        (tmp_path / "file").touch()
        answer = await held
        assert (answer.text, answer.headers["connection"]) == ('"file"', "close")
        assert (await program.ends()).code == 0


async def test_a_request_that_does_not_end_is_given_up(start: Any, until: Any, tmp_path: Path) -> None:
    program = await start("api", SAMPLE_HTTP__GRACEFUL_SECONDS=1, SAMPLE_HTTP__DEADLINE_SECONDS=LONG)
    await program.get("/readyz")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        held = asyncio.create_task(client.get(f"http://127.0.0.1:{program.port}/held/never"))

        async def begun() -> bool:
            return (tmp_path / "never.begun").exists()

        await until(begun)
        async with asyncio.timeout(BOUND_SECONDS):
            ended = await program.ends(signal.SIGTERM)
        await asyncio.gather(held, return_exceptions=True)
    assert ended.code == 0
    assert "resources closed" in {line["message"] for line in ended.out}


@pytest.mark.parametrize("kind", ["api", "worker"])
async def test_a_collector_that_says_nothing_does_not_hold_it(start: Any, silent_port: int, kind: str) -> None:
    tracing = {"SAMPLE_TRACING__ENDPOINT": f"http://127.0.0.1:{silent_port}", "SAMPLE_TRACING__SAMPLE_RATIO": 1}
    program = await start(kind, **tracing)
    await program.get("/nowhere")
    async with asyncio.timeout(BOUND_SECONDS):
        assert (await program.ends(signal.SIGTERM)).code == 0


async def test_servers_that_say_nothing_any_more_do_not_hold_it(
    start: Any, proxy: Any, postgres_dsn: str, mongo_database: Any, redis_url: str
) -> None:
    proxies, variables = [], {"SAMPLE_MONGO__DATABASE": mongo_database.name}
    addresses = {"POSTGRES__DSN": postgres_dsn, "MONGO__URL": mongo_database.url, "REDIS__URL": redis_url}
    for name, url in addresses.items():
        parts = urlsplit(url)
        proxies.append(await proxy(parts.hostname, parts.port))
        variables[f"SAMPLE_{name}"] = url.replace(f":{parts.port}", f":{proxies[-1].port}", 1)
    program = await start("api", **variables)
    assert await status(program, "/readyz") == 200
    for each in proxies:
        each.freeze()
    async with asyncio.timeout(BOUND_SECONDS):
        ended = await program.ends(signal.SIGTERM)
    assert ended.code == 0
    assert "resources closed" in {line["message"] for line in ended.out}
