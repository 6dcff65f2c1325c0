"""A worker's life: its jobs run until told to stop, in order; the process does not outlive one that died."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
from fastapi import FastAPI

from shop_common import service
from shop_common.service import Job, WorkerResources, worker_app
from shop_common.settings import ServiceSettings
from shop_common.testing import open_app_client

LOG: list[str] = []


def opening(
    create_jobs: Callable[[], Sequence[Job]],
) -> Callable[[ServiceSettings], AbstractAsyncContextManager[WorkerResources]]:
    @asynccontextmanager
    async def open_resources(_: ServiceSettings) -> AsyncIterator[WorkerResources]:
        LOG.append("open")
        try:
            yield WorkerResources({}, create_jobs())
        finally:
            LOG.append("close")

    return open_resources


@dataclass
class Named:
    """A job made of a function."""

    name: str
    work: Callable[[asyncio.Event], Awaitable[None]] = asyncio.Event.wait  # type: ignore[assignment] # its result is dropped

    async def run(self, stop: asyncio.Event) -> None:
        try:
            await self.work(stop)
        finally:
            LOG.append(f"{self.name} ended")


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    LOG.clear()


def worker(*jobs: Job) -> tuple[FastAPI, asyncio.Event]:
    """The application, and what is set when it asks its process to end."""
    asked = asyncio.Event()

    app = worker_app("demo-worker", ServiceSettings(), opening(lambda: jobs))
    app.state.exit = asked.set
    return app, asked


async def test_jobs_stop_in_the_order_given_before_resources_close() -> None:
    app, asked = worker(Named("consumer"), Named("relay"))
    async with open_app_client(app):
        await asyncio.sleep(0)
        assert LOG == ["open"]
    assert LOG == ["open", "consumer ended", "relay ended", "close"]
    assert not app.state.failed
    assert not asked.is_set()


async def test_a_worker_serves_health_and_metrics_and_nothing_else() -> None:
    app, _ = worker(Named("consumer"))
    async with open_app_client(app) as client:
        statuses = {path: (await client.get(path)).status_code for path in ("/livez", "/readyz", "/health", "/metrics")}
        assert set(statuses.values()) == {200}
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 404


async def fail(_: asyncio.Event) -> None:
    raise ValueError("a poison nobody foresaw")


async def end(_: asyncio.Event) -> None: ...


async def cancel_itself(_: asyncio.Event) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [fail, end, cancel_itself])
async def test_a_job_that_ends_unasked_ends_the_process_as_failed(
    work: Callable[[asyncio.Event], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    app, asked = worker(Named("relay"), Named("consumer", work))
    async with open_app_client(app):
        await asked.wait()
    assert app.state.failed
    assert "Named died; the process ends to be restarted" in caplog.messages
    assert LOG == ["open", "consumer ended", "relay ended", "close"]


async def test_a_job_that_fails_while_it_stops_is_a_failure_too() -> None:
    async def fail_at_the_end(stop: asyncio.Event) -> None:
        await stop.wait()
        raise OSError("could not commit")

    app, asked = worker(Named("consumer", fail_at_the_end), Named("relay"))
    async with open_app_client(app):
        await asyncio.sleep(0)
    assert app.state.failed
    assert asked.is_set()
    assert LOG == ["open", "consumer ended", "relay ended", "close"]


async def test_a_job_that_does_not_stop_is_cancelled_and_the_next_still_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "_JOB_STOP_SECONDS", 0.02)

    async def deaf(_: asyncio.Event) -> None:
        await asyncio.Event().wait()

    app, _ = worker(Named("consumer", deaf), Named("relay"))
    async with open_app_client(app):
        await asyncio.sleep(0)
    assert LOG == ["open", "consumer ended", "relay ended", "close"]


async def test_a_job_that_ignores_even_cancellation_does_not_hold_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_JOB_STOP_SECONDS", 0.02)
    monkeypatch.setattr(service, "_JOB_CANCEL_SECONDS", 0.02)
    let_go = asyncio.Event()

    async def stubborn(_: asyncio.Event) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    app, _ = worker(Named("consumer", stubborn), Named("relay"))
    async with open_app_client(app):
        await asyncio.sleep(0)
    assert LOG == ["open", "relay ended", "close"]
    let_go.set()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
    assert LOG[-1] == "consumer ended"


async def test_jobs_that_cannot_be_made_close_the_resources() -> None:
    def create_jobs() -> Sequence[Job]:
        raise ValueError("no such topic")

    app = worker_app("demo-worker", ServiceSettings(), opening(create_jobs))
    with pytest.raises(ValueError, match="no such topic"):
        async with open_app_client(app):
            raise AssertionError("must not start")
    assert LOG == ["open", "close"]
