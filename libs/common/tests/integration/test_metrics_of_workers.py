"""One process group, one set of metrics: counters add up, and a dead worker's live gauges are forgotten."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shop_common import metrics


def value(text: str, name: str, **labels: str) -> float:
    """The one sample of that name with these labels among its own; 0 without."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) <= 1
    return found[0] if found else 0


async def pids(program: Any, wanted: int, known: frozenset[int] = frozenset()) -> tuple[set[int], int]:
    """Ask on new connections until so many workers other than the known have answered; how often it took."""
    seen: set[int] = set()
    asked = 0
    while len(seen) < wanted:
        answer = await program.get("/pid")
        asked += 1
        seen |= {answer.json()} - known
    return seen, asked


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_two_workers_count_as_one_and_a_dead_one_not_at_all(
    start: Any, free_port: Callable[[], int], tmp_path: Path
) -> None:
    metrics_port = free_port()
    program = await start("api", SAMPLE_HTTP__WORKERS=2, SAMPLE_HTTP__METRICS_PORT=metrics_port)

    async def exposed() -> str:
        return str((await program.get("/metrics", metrics_port)).text)

    async with asyncio.timeout(60):
        workers, asked = await pids(program, 2)
        text = await exposed()
        assert value(text, "shop_http_requests_total", route="/pid", status="200") == asked
        assert value(text, "shop_http_request_seconds_count", route="/pid") == asked
        assert value(text, "shop_pool_connections", pool="sample") == 10
        started = value(text, "process_start_time_seconds")
        assert started > 0
        assert (await program.get("/metrics")).status_code == 404

        victim = workers.pop()
        os.kill(victim, signal.SIGKILL)
        [replacement], asked_again = await pids(program, 1, frozenset(workers | {victim}))
        text = await exposed()
        assert replacement != victim
        assert value(text, "shop_pool_connections", pool="sample") == 10
        assert value(text, "shop_http_requests_total", route="/pid", status="200") == asked + asked_again
        assert value(text, "process_start_time_seconds") == started

    ended = await program.ends(signal.SIGTERM)
    assert ended.code == 0
    assert is_empty(tmp_path)


async def test_any_worker_answers_for_all(start: Any) -> None:
    program = await start("api", SAMPLE_HTTP__WORKERS=2)
    async with asyncio.timeout(60):
        _, asked = await pids(program, 2)
        for _ in range(4):
            text = (await program.get("/metrics")).text
            assert value(text, "shop_http_requests_total", route="/pid", status="200") == asked


@pytest.mark.parametrize(
    ("error", "running"), [(None, True), (PermissionError, True), (ProcessLookupError, False)], ids=str
)
def test_somebody_elses_process_runs_too(
    error: type[OSError] | None,
    running: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kill(pid: int, number: int) -> None:
        assert number == 0
        if error is not None:
            raise error

    monkeypatch.setattr(os, "kill", kill)
    assert metrics._is_running(1) is running
