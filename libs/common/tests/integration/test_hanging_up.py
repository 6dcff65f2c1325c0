"""Clients that go while they are answered: what only reads for them ends, what may change something does not."""

import asyncio
import signal
from pathlib import Path
from typing import Any


async def hang_up(program: Any, until: Any, method: str, name: str, folder: Path) -> None:
    """Ask for what is held, and go as soon as it has begun."""
    await program.get("/pid")
    _, writer = await asyncio.open_connection("127.0.0.1", program.port)
    writer.write(f"{method} /held/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())

    async def begun() -> bool:
        return (folder / f"{name}.begun").exists()

    await until(begun)
    writer.close()


async def in_progress(program: Any) -> float:
    metrics = (await program.get("/metrics")).text
    [value] = [line.split()[1] for line in metrics.splitlines() if line.startswith("shop_http_requests_in_progress ")]
    return float(value)


def held(ended: Any) -> list[int]:
    return [line["status"] for line in ended.out if line.get("route") == "/held/{name}"]


async def test_a_read_for_nobody_is_cancelled(start: Any, until: Any, tmp_path: Path) -> None:
    program = await start("api")
    await hang_up(program, until, "GET", "never", tmp_path)

    async def over() -> bool:
        return await in_progress(program) == 1  # that of the metrics

    await until(over)
    ended = await program.ends(signal.SIGTERM)
    assert (ended.code, ended.err, held(ended)) == (0, [], [499])
    assert not [line for line in ended.out if line["level"] in {"ERROR", "WARNING"}]


async def test_a_write_goes_on_to_its_end(start: Any, until: Any, tmp_path: Path) -> None:
    program = await start("api")
    await hang_up(program, until, "POST", "later", tmp_path)
    assert await in_progress(program) == 2
    (tmp_path / "later").touch()

    async def over() -> bool:
        return await in_progress(program) == 1

    await until(over)
    ended = await program.ends(signal.SIGTERM)
    assert (ended.code, ended.err, held(ended)) == (0, [], [200])
