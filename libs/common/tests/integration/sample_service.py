"""A service and a worker for the tests of whole processes: `python sample_service.py api|worker`."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import APIRouter, FastAPI

from shop_common.errors import StartupError
from shop_common.health import Check
from shop_common.metrics import POOL_SIZE
from shop_common.mongo import open_mongo
from shop_common.postgres import open_postgres
from shop_common.redis import open_redis
from shop_common.service import WorkerResources, run_api, run_worker, service_app, worker_app
from shop_common.settings import (
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    ServiceSettings,
    load_settings,
    settings_config,
)

router = APIRouter()


class Settings(ServiceSettings):
    model_config = settings_config("SAMPLE_")

    refuses: bool = False
    job_dies: bool = False
    postgres: PostgresSettings | None = None
    mongo: MongoSettings | None = None
    redis: RedisSettings | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    checks: dict[str, Check] = field(default_factory=dict)


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    if settings.refuses:
        raise StartupError("the sample refuses; set SAMPLE_REFUSES to false")
    POOL_SIZE.labels("sample").set(5)
    async with AsyncExitStack() as stack:
        if settings.postgres:
            await stack.enter_async_context(open_postgres(settings.postgres, "sample"))
        if settings.mongo:
            await stack.enter_async_context(open_mongo(settings.mongo, "sample"))
        if settings.redis:
            await (await stack.enter_async_context(open_redis(settings.redis))).ping()
        yield Resources()
    logging.getLogger("sample").info("resources closed")


@router.get("/pid")
async def pid() -> int:
    return os.getpid()


@router.post("/held/{name}")
@router.get("/held/{name}")
async def hold(name: str) -> str:
    """Answer once the test has made the file of that name in the directory the process was started in."""
    Path(f"{name}.begun").touch()  # noqa: ASYNC240 - one file of a test
    while not Path(name).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    return name


def create_app() -> FastAPI:
    return service_app("sample", load_settings(Settings), open_resources, routers=[router])


class Worker:
    """Ends when told to, or at once when it is to die."""

    def __init__(self, name: str, *, dies: bool) -> None:
        self._name = name
        self._dies = dies

    async def run(self, stop: asyncio.Event) -> None:
        if self._dies:
            raise RuntimeError("the sample dies")
        await stop.wait()
        logging.getLogger("sample").info("%s stopped", self._name)


@asynccontextmanager
async def open_worker_resources(settings: Settings) -> AsyncIterator[WorkerResources]:
    async with open_resources(settings) as resources:
        jobs = (Worker("consumer", dies=False), Worker("relay", dies=settings.job_dies))
        yield WorkerResources(resources.checks, jobs)


if __name__ == "__main__":
    own = load_settings(Settings)
    if sys.argv[1] == "api":
        run_api("sample_service:create_app", own)
    else:
        run_worker(worker_app("sample-worker", own, open_worker_resources), own)
