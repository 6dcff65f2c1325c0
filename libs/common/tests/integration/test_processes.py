"""Whole processes: how they start, how they refuse to, how they end, and what an operator reads."""

import signal
import socket
from pathlib import Path
from typing import Any

import pytest


def messages(ended: Any) -> list[str]:
    return [line["message"] for line in ended.out]


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_an_api_serves_until_it_is_told_to_stop(start: Any) -> None:
    program = await start("api")
    assert (await program.get("/readyz")).json() == {"status": "ok", "checks": {}}
    answer = await program.get("/pid")
    assert answer.json() == program.process.pid
    assert "server" not in answer.headers
    ended = await program.ends(signal.SIGTERM)
    assert (ended.code, ended.err) == (0, [])
    assert "resources closed" in messages(ended)
    access = [line for line in ended.out if line["logger"] == "shop.access"]
    assert [line["path"] for line in access] == ["/pid"]


@pytest.mark.parametrize("kind", ["api", "worker"])
async def test_a_process_that_cannot_start_says_why_in_one_line_and_fails(start: Any, kind: str) -> None:
    ended = await (await start(kind, SAMPLE_REFUSES=True)).ends()
    assert ended.code == 3
    assert ended.err == ["the sample refuses; set SAMPLE_REFUSES to false"]
    assert "Traceback" not in str(ended.out)


async def test_workers_that_cannot_start_end_their_parent_with_a_failure(start: Any, tmp_path: Path) -> None:
    ended = await (await start("api", SAMPLE_REFUSES=True, SAMPLE_HTTP__WORKERS=2)).ends()
    assert ended.code == 3
    assert set(ended.err) == {"the sample refuses; set SAMPLE_REFUSES to false"}
    assert is_empty(tmp_path)


@pytest.mark.parametrize("kind", ["api", "worker"])
@pytest.mark.parametrize("variable", ["SAMPLE_HTTP__PORT", "SAMPLE_HTTP__METRICS_PORT"])
async def test_a_port_that_is_taken_is_one_line_and_a_failure(start: Any, kind: str, variable: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = await (await start(kind, **{variable: port})).ends()
    assert ended.code == 1
    [line] = ended.err
    assert line.startswith(f"127.0.0.1:{port} cannot be listened on (Address already in use)")
    assert line.endswith(variable)


async def test_a_bad_setting_is_one_line_and_78(start: Any) -> None:
    ended = await (await start("api", SAMPLE_HTTP__WORKERS="many")).ends()
    assert ended.code == 78
    [line] = ended.err
    assert line.startswith("SAMPLE_HTTP__WORKERS: ")


async def test_a_worker_stops_its_jobs_in_order(start: Any) -> None:
    program = await start("worker")
    await program.get("/livez")
    ended = await program.ends(signal.SIGTERM)
    assert (ended.code, ended.err) == (0, [])
    ours = [line["message"] for line in ended.out if line["logger"] == "sample"]
    assert ours == ["consumer stopped", "relay stopped", "resources closed"]


async def test_a_worker_interrupted_at_the_terminal_ends_without_a_traceback(start: Any) -> None:
    program = await start("worker")
    await program.get("/livez")
    ended = await program.ends(signal.SIGINT)
    assert (ended.code, ended.err) == (0, [])


async def test_a_worker_whose_job_dies_ends_with_a_failure(start: Any) -> None:
    ended = await (await start("worker", SAMPLE_JOB_DIES=True)).ends()
    assert (ended.code, ended.err) == (1, [])
    [died] = [line for line in ended.out if line["level"] == "CRITICAL"]
    assert "the sample dies" in died["exc_info"]
    assert "consumer stopped" in messages(ended)
    assert "resources closed" in messages(ended)
