"""What each process of ours is: `service_app()` and `worker_app()` build it, `run_api()`, `run_worker()` serve it."""

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from pydantic.json_schema import models_json_schema

from shop_common.errors import Unavailable
from shop_common.health import Check, Health
from shop_common.logs import configure_logs
from shop_common.metrics import metrics_endpoint, serve_metrics, share_metrics_between_workers
from shop_common.problems import Problem, app_error_response, install_problem_handlers
from shop_common.request import RequestMiddleware
from shop_common.settings import ServiceSettings
from shop_common.tracing import open_tracing

_JOB_STOP_SECONDS = 20.0

_logger = logging.getLogger(__name__)


class Resources(Protocol):
    """What a process holds while it runs; `checks` are the backends `/readyz` asks."""

    @property
    def checks(self) -> Mapping[str, Check]: ...


class Job(Protocol):
    """A consumer or a relay: works until `stop` is set, and then ends within bounds of its own."""

    async def run(self, stop: asyncio.Event) -> None: ...


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
ResourcesT = TypeVar("ResourcesT", bound=Resources)
OpenResources = Callable[[SettingsT], AbstractAsyncContextManager[ResourcesT]]


def service_app(
    name: str,
    settings: SettingsT,
    open_resources: OpenResources[SettingsT, ResourcesT],
    *,
    routers: Sequence[APIRouter],
    transient: tuple[type[Exception], ...] = (),
) -> FastAPI:
    """An HTTP service: its routers, problem documents, health, metrics, traces. `transient` errors answer 503."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logs(name, settings.log_level)
        async with open_tracing(settings.tracing, name), open_resources(settings) as resources:
            app.state.resources = resources
            health.checks = resources.checks
            yield

    app = FastAPI(title=f"{name} API", version="1.0.0", lifespan=lifespan, redoc_url=None)
    health = _install(app, name, settings)
    for router in routers:
        app.include_router(router)

    async def on_transient(request: Request, error: Exception) -> Response:
        _logger.warning("backend unavailable", extra={"error": type(error).__name__, "path": request.url.path})
        return app_error_response(Unavailable("A backend does not answer; try again shortly"))

    for transient_class in transient:
        app.add_exception_handler(transient_class, on_transient)
    return app


def worker_app(
    name: str,
    settings: SettingsT,
    open_resources: OpenResources[SettingsT, ResourcesT],
    create_jobs: Callable[[ResourcesT], Sequence[Job]],
) -> FastAPI:
    """A worker: runs its jobs, and serves only health and metrics. A job that dies ends the process with code 1."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logs(name, settings.log_level)
        async with open_tracing(settings.tracing, name), open_resources(settings) as resources:
            health.checks = resources.checks
            jobs = create_jobs(resources)
            stops = [asyncio.Event() for _ in jobs]
            tasks = [asyncio.create_task(_owned(job, stop, app)) for job, stop in zip(jobs, stops, strict=True)]
            try:
                yield
            finally:
                for stop, task in zip(stops, tasks, strict=True):  # in the order given: what takes work in stops first
                    stop.set()
                    await asyncio.wait([task], timeout=_JOB_STOP_SECONDS)
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(title=name, lifespan=lifespan, openapi_url=None)
    app.state.failed = False
    app.state.exit = lambda: None
    health = _install(app, name, settings)
    return app


async def _owned(job: Job, stop: asyncio.Event, app: FastAPI) -> None:
    try:
        await job.run(stop)
    except Exception:
        _logger.critical("%s died; the process ends to be restarted", type(job).__name__, exc_info=True)
        app.state.failed = True
        app.state.exit()


def _install(app: FastAPI, name: str, settings: ServiceSettings) -> Health:
    health = Health(name, {})
    install_problem_handlers(app)
    app.add_middleware(RequestMiddleware, http=settings.http, tracing=settings.tracing)  # outermost of ours
    for path, endpoint in (("/livez", health.livez), ("/readyz", health.readyz), ("/health", health.health)):
        app.add_route(path, endpoint, include_in_schema=False)
    if settings.http.metrics_port is None:
        app.add_route("/metrics", metrics_endpoint, include_in_schema=False)
    app.openapi = _with_problem_schema(app.openapi)  # type: ignore[method-assign] # FastAPI's documented way
    return health


def _with_problem_schema(build: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        document = build()
        _, schema = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(schema["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    return openapi


def run_api(factory: str, settings: ServiceSettings) -> None:
    """Serve `package.app:create_app` with as many workers as the settings ask for."""
    _require_free_port(settings)
    if settings.http.workers > 1:
        share_metrics_between_workers()
    if settings.http.metrics_port is not None:
        serve_metrics(settings.http.host, settings.http.metrics_port)
    uvicorn.run(factory, factory=True, workers=settings.http.workers, **_server_options(settings))


def run_worker(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve a worker until a signal, or until one of its jobs dies."""
    _require_free_port(settings)
    server = uvicorn.Server(uvicorn.Config(app, **_server_options(settings)))

    def leave() -> None:
        server.should_exit = True

    app.state.exit = leave
    server.run()
    if not server.started:
        sys.exit(3)
    if app.state.failed:
        sys.exit(1)


def _require_free_port(settings: ServiceSettings) -> None:
    host, port = settings.http.host, settings.http.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            name = str(settings.model_config.get("env_prefix")) + "HTTP__PORT"
            sys.exit(f"{host}:{port} cannot be listened on ({error.strerror}); stop what holds it or set {name}")


def _server_options(settings: ServiceSettings) -> dict[str, Any]:
    http = settings.http
    configure_logs("uvicorn", settings.log_level)
    return {
        "host": http.host,
        "port": http.port,
        "loop": "uvloop",
        "http": "httptools",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "limit_max_requests": http.limit_max_requests if http.workers > 1 else None,
        "limit_max_requests_jitter": http.limit_max_requests // 10,
        "timeout_keep_alive": http.keep_alive_seconds,
        "timeout_graceful_shutdown": http.graceful_seconds,
    }
