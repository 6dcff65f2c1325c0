"""What each process of ours is: `service_app()` and `worker_app()` build it, `run_api()`, `run_worker()` serve it."""

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.telemetry import TelemetryConfig
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from shop_common.answers import AnswerAtOnce
from shop_common.errors import AppError, Unavailable
from shop_common.health import Check, Health
from shop_common.logs import configure_logs
from shop_common.metrics import metrics_endpoint, serve_metrics, share_metrics_between_workers
from shop_common.problems import Problem, app_error_response, install_problem_handlers, problems
from shop_common.protocol import GuardedHttpProtocol
from shop_common.request import InProgress, RequestMiddleware
from shop_common.server import Server, Supervisor
from shop_common.settings import ServiceSettings
from shop_common.tracing import open_tracing

_JOB_STOP_SECONDS = 20.0
_JOB_CANCEL_SECONDS = 5.0
_STARTUP_FAILED = 3  # what uvicorn exits with
# FastAPI would record each request by whatever provider it finds, sampled or not; RequestMiddleware does that.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}

_logger = logging.getLogger(__name__)


class Resources(Protocol):
    """What a process holds while it runs; `checks` are the backends `/readyz` asks."""

    @property
    def checks(self) -> Mapping[str, Check]: ...


class Job(Protocol):
    """A consumer or a relay: works until `stop` is set, and then ends within bounds of its own."""

    async def run(self, stop: asyncio.Event) -> None: ...


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """Of a worker; its last job, which publishes what the others did, is stopped when those have ended."""

    checks: Mapping[str, Check]
    jobs: Sequence[Job]


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
ResourcesT = TypeVar("ResourcesT", bound=Resources)
_State = dict[str, Any]
"""What `Server` and `GuardedHttpProtocol` ask of an application."""
OpenResources = Callable[[SettingsT], AbstractAsyncContextManager[ResourcesT]]


def service_app(
    name: str,
    settings: SettingsT,
    open_resources: OpenResources[SettingsT, ResourcesT],
    *,
    routers: Sequence[APIRouter] = (),
    middleware: Sequence[Middleware] = (),
    transient: tuple[type[Exception], ...] = (),
    at_once: Callable[[ResourcesT, InProgress], AnswerAtOnce] | None = None,
) -> FastAPI:
    """An HTTP service: its routers, problem documents, health, metrics, traces. `transient` errors answer 503.

    `middleware`, the outer ones first, is around the routes and inside what is around every request. `at_once` makes
    what is asked first of all, on a socket.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[_State]:
        configure_logs(name, settings.log_level)
        async with open_tracing(settings.tracing, name), open_resources(settings) as resources:
            app.state.resources = resources
            health.checks = resources.checks
            state = _state(health, settings)
            yield state if at_once is None else state | {"answer_at_once": at_once(resources, in_progress)}

    app = FastAPI(
        title=f"{name} API",
        version="1.0.0",
        lifespan=lifespan,
        middleware=list(middleware),
        redoc_url=None,
        redirect_slashes=False,  # the address would be built from the client's Host header
        telemetry=_NO_TELEMETRY,
    )
    in_progress = InProgress(settings.http.limit_concurrency)
    health = _install(app, name, settings, in_progress)
    for router in routers:
        app.include_router(router)

    async def on_transient(request: Request, error: Exception) -> Response:
        _logger.warning("backend unavailable", extra={"error": type(error).__name__, "path": request.url.path})
        return app_error_response(Unavailable("A backend does not answer; try again shortly"))

    for transient_class in transient:
        if not issubclass(transient_class, AppError):  # those say what to answer
            app.add_exception_handler(transient_class, on_transient)
    return app


def worker_app(
    name: str,
    settings: SettingsT,
    open_resources: OpenResources[SettingsT, WorkerResources],
) -> FastAPI:
    """A worker: runs its jobs, and serves only health and metrics. A job that dies ends the process with code 1."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[_State]:
        configure_logs(name, settings.log_level)
        async with open_tracing(settings.tracing, name), open_resources(settings) as resources:
            health.checks = resources.checks
            stops = [asyncio.Event() for _ in resources.jobs]
            jobs = zip(resources.jobs, stops, strict=True)
            tasks = {asyncio.create_task(_owned(job, stop, app)): stop for job, stop in jobs}
            try:
                yield _state(health, settings)
            finally:
                *first, last = tasks
                for stage in (first, [last]):
                    await _stop({task: tasks[task] for task in stage})

    app = FastAPI(title=name, lifespan=lifespan, openapi_url=None, redirect_slashes=False, telemetry=_NO_TELEMETRY)
    app.state.failed = False
    app.state.exit = lambda: None
    health = _install(app, name, settings, InProgress(settings.http.limit_concurrency))
    return app


async def _stop(running: Mapping[asyncio.Task[None], asyncio.Event]) -> None:
    for stop in running.values():
        stop.set()
    late = set(running)
    if late:
        _, late = await asyncio.wait(late, timeout=_JOB_STOP_SECONDS)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=_JOB_CANCEL_SECONDS)


def _state(health: Health, settings: ServiceSettings) -> _State:
    http = settings.http
    return {"health": health, "drain_seconds": http.drain_seconds, "max_connections": http.max_connections}


async def _owned(job: Job, stop: asyncio.Event, app: FastAPI) -> None:
    """However a job ends before it is told to, the process must not go on without it."""
    failure: BaseException | None = None
    try:
        await job.run(stop)
    except BaseException as error:
        failure = error
        if not isinstance(error, Exception):
            raise
    finally:
        if failure is not None or not stop.is_set():
            _logger.critical("%s died; the process ends to be restarted", type(job).__name__, exc_info=failure)
            app.state.failed = True
            app.state.exit()


def _install(app: FastAPI, name: str, settings: ServiceSettings, in_progress: InProgress) -> Health:
    health = Health(name, {})
    install_problem_handlers(app)
    # The outermost of ours.
    app.add_middleware(RequestMiddleware, http=settings.http, tracing=settings.tracing, in_progress=in_progress)
    for path, endpoint in (("/livez", health.livez), ("/readyz", health.readyz), ("/health", health.health)):
        app.add_route(path, endpoint, include_in_schema=False)
    if settings.http.metrics_port is None:
        app.add_route("/metrics", metrics_endpoint, include_in_schema=False)
    app.openapi = _with_problems(app, app.openapi)  # type: ignore[method-assign] # FastAPI's documented way
    return health


def _with_problems(app: FastAPI, build: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """FastAPI's document with problem documents where it has put its own shape of validation errors."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = build()
        _, schema = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(schema["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path in document["paths"].values():
            for operation in path.values():
                if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                    operation["responses"] |= {str(status): answer for status, answer in problems().items()}
        return document

    return openapi


def run_api(factory: str, settings: ServiceSettings) -> None:
    """Serve `package.app:create_app` with as many workers as the settings ask for."""
    options = _server_options(settings)
    if settings.http.workers == 1:
        _serve_metrics_apart(settings)
        Server(uvicorn.Config(factory, factory=True, **options)).run()
        return
    with share_metrics_between_workers():
        _serve_metrics_apart(settings)
        config = uvicorn.Config(factory, factory=True, workers=settings.http.workers, **options)
        supervisor = Supervisor(config, sockets=[config.bind_socket()])
        supervisor.run()
    if any(process.exitcode == _STARTUP_FAILED for process in supervisor.processes):
        sys.exit(_STARTUP_FAILED)


def run_worker(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve a worker until a signal, or until one of its jobs dies."""
    options = _server_options(settings)
    _serve_metrics_apart(settings)
    server = Server(uvicorn.Config(app, **options))

    def leave() -> None:
        server.should_exit = True

    app.state.exit = leave
    server.run()
    if app.state.failed:
        sys.exit(1)


def _serve_metrics_apart(settings: ServiceSettings) -> None:
    if settings.http.metrics_port is not None:
        serve_metrics(settings.http.host, settings.http.metrics_port)


def _require_free_port(settings: ServiceSettings, field: str) -> None:
    host, port = settings.http.host, getattr(settings.http, field)
    if port is None:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            name = f"{settings.model_config.get('env_prefix')}HTTP__{field.upper()}"
            sys.exit(f"{host}:{port} cannot be listened on ({error.strerror}); stop what holds it or set {name}")


def _server_options(settings: ServiceSettings) -> dict[str, Any]:
    http = settings.http
    for field in ("port", "metrics_port"):
        _require_free_port(settings, field)
    configure_logs("uvicorn", settings.log_level)
    return {
        "host": http.host,
        "port": http.port,
        "loop": "uvloop",
        "http": GuardedHttpProtocol,
        "ws": "none",
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
