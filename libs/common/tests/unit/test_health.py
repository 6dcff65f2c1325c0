"""Liveness looks at nothing, readiness at the pools, and neither waits for long nor tells strangers much."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request

from shop_common import health
from shop_common.health import Check, Health


async def fine() -> None: ...


async def refused() -> None:
    raise ConnectionRefusedError("10.1.2.3:5432 with password hunter2")


async def hangs() -> None:
    await asyncio.Event().wait()


def answer(checks: Mapping[str, Check], path: str) -> Any:
    async def ask() -> tuple[int, Any]:
        response = await getattr(Health("demo", checks), path)(Request({"type": "http"}))
        return response.status_code, json.loads(response.body)

    return asyncio.run(ask())


def test_liveness_does_not_look_at_backends() -> None:
    assert answer({"db": refused}, "livez") == (200, {"status": "ok"})


def test_ready_when_every_check_passes() -> None:
    assert answer({"db": fine, "cache": fine}, "readyz") == (
        200,
        {"status": "ok", "checks": {"db": "ok", "cache": "ok"}},
    )


def test_not_ready_names_the_kind_of_failure_only(caplog: pytest.LogCaptureFixture) -> None:
    status, body = answer({"db": refused, "cache": fine}, "readyz")
    assert (status, body) == (
        503,
        {"status": "unavailable", "checks": {"db": "ConnectionRefusedError", "cache": "ok"}},
    )
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["check"] == "db"
    assert "10.1.2.3" in record.__dict__["error"]


def test_a_check_that_hangs_is_a_failure_after_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.CHECK_SECONDS == 1
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.02)
    status, body = answer({"slow": hangs, "also slow": hangs}, "readyz")
    assert (status, body["checks"]) == (503, {"slow": "TimeoutError", "also slow": "TimeoutError"})


def test_the_report_for_people_is_always_200() -> None:
    status, body = answer({"db": refused}, "health")
    assert status == 200
    assert (body["service"], body["status"], body["checks"]) == ("demo", "degraded", {"db": "ConnectionRefusedError"})
    assert body["uptime_seconds"] >= 0
    assert answer({}, "health")[1]["status"] == "ok"
