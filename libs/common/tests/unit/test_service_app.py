"""An HTTP service's life: what it opens it closes, whatever fails, and what its document promises."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.types import Message

from shop_common.errors import NotFound, StartupError, Unavailable
from shop_common.health import Check
from shop_common.problems import problems
from shop_common.service import service_app
from shop_common.settings import HttpServerSettings, ServiceSettings
from shop_common.testing import open_app_client

router = APIRouter()
NAMES = ("postgres", "redis", "http")


@router.get("/orders/{number}", responses=problems(NotFound))
async def read(number: int) -> int:
    return number


@router.post("/undocumented")
async def undocumented(number: int) -> int:
    return number


@dataclass(frozen=True, slots=True)
class Resources:
    checks: dict[str, Check]


class Backends:
    """Three resources, one inside the other, each of which can be made to fail at its opening or its closing."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.log: list[str] = []

    @asynccontextmanager
    async def open(self, _: ServiceSettings) -> AsyncIterator[Resources]:
        async with AsyncExitStack() as stack:
            for name in NAMES:
                await stack.enter_async_context(self.resource(name))
            yield Resources(dict.fromkeys(NAMES, self.check))

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncIterator[None]:
        if self.fails == f"open {name}":
            raise StartupError(f"{name} refuses")
        self.log.append(f"+{name}")
        try:
            yield
        finally:
            self.log.append(f"-{name}")
            if self.fails == f"close {name}":
                raise OSError(f"{name} does not close")

    async def check(self) -> None: ...


def app_of(backends: Backends, **options: Any) -> FastAPI:
    return service_app("demo", ServiceSettings(), backends.open, routers=[router], **options)


async def test_resources_are_the_applications_while_it_runs() -> None:
    backends = Backends()
    app = app_of(backends)
    async with open_app_client(app) as client:
        assert app.state.resources.checks.keys() == set(NAMES)
        assert (await client.get("/readyz")).json()["checks"] == dict.fromkeys(NAMES, "ok")
        assert (await client.get("/orders/7")).json() == 7
        assert "shop_http_requests_total" in (await client.get("/metrics")).text
    assert backends.log == ["+postgres", "+redis", "+http", "-http", "-redis", "-postgres"]


@pytest.mark.parametrize("failing", NAMES)
async def test_a_resource_that_does_not_open_closes_those_before_it(failing: str) -> None:
    backends = Backends(f"open {failing}")
    with pytest.raises(StartupError, match=failing):
        async with open_app_client(app_of(backends)):
            raise AssertionError("must not start")
    opened = [name for name in NAMES if f"+{name}" in backends.log]
    assert opened == list(NAMES[: NAMES.index(failing)])
    assert backends.log[len(opened) :] == [f"-{name}" for name in reversed(opened)]


@pytest.mark.parametrize("failing", NAMES)
async def test_a_resource_that_does_not_close_leaves_none_of_the_others_open(failing: str) -> None:
    backends = Backends(f"close {failing}")
    with pytest.raises(OSError, match=failing):
        async with open_app_client(app_of(backends)):
            pass
    assert backends.log[3:] == ["-http", "-redis", "-postgres"]


async def lifespan_messages(app: FastAPI, sent: list[Message]) -> None:
    """Start and stop the application as a server does; `sent` is what it says."""

    async def receive() -> Message:
        return {"type": "lifespan.startup" if not sent else "lifespan.shutdown"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


async def test_a_start_that_fails_for_a_known_reason_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StartupError):
        await lifespan_messages(app_of(Backends("open redis")), [])
    assert capsys.readouterr().err == "redis refuses\n"


async def test_a_start_that_fails_for_an_unknown_reason_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def mistaken(_: ServiceSettings) -> None:
        raise KeyError("a mistake of ours")

    @asynccontextmanager
    async def open_broken(settings: ServiceSettings) -> AsyncIterator[Resources]:
        await mistaken(settings)
        yield Resources({})

    sent: list[Message] = []
    app = service_app("demo", ServiceSettings(), open_broken, routers=[])
    with pytest.raises(KeyError):
        await lifespan_messages(app, sent)
    assert "Traceback" in sent[0]["message"]
    assert "a mistake of ours" in sent[0]["message"]
    assert capsys.readouterr().err == ""


async def test_start_and_stop_are_told_to_the_server() -> None:
    sent: list[Message] = []
    await lifespan_messages(app_of(Backends()), sent)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_transient_errors_of_a_driver_are_503_and_an_errors_own_answer_stands() -> None:
    class ServerAway(Exception):
        pass

    class ServerBusy(ServerAway):
        pass

    failing = APIRouter()

    @failing.get("/away")
    async def away() -> None:
        raise ServerBusy("at 10.1.2.3")

    @failing.get("/full")
    async def full() -> None:
        raise Unavailable("No connection was free", retry_after=9)

    backends = Backends()
    app = service_app("demo", ServiceSettings(), backends.open, routers=[failing], transient=(ServerAway, Unavailable))
    async with open_app_client(app) as client:
        answer = await client.get("/away")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "10.1.2.3" not in answer.text
        full_answer = await client.get("/full")
        assert full_answer.headers["retry-after"] == "9"
        assert full_answer.json()["detail"] == "No connection was free"


async def test_a_public_process_serves_its_metrics_elsewhere() -> None:
    settings = ServiceSettings(http=HttpServerSettings(metrics_port=1))
    async with open_app_client(service_app("demo", settings, Backends().open, routers=[])) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/livez")).status_code == 200


async def test_the_document_describes_problems_and_nothing_that_is_not_there() -> None:
    async with open_app_client(app_of(Backends())) as client:
        document = (await client.get("/openapi.json")).json()
        assert (await client.get("/openapi.json")).json() == document
    schemas = document["components"]["schemas"]
    assert set(schemas) == {"Problem", "FieldProblem"}
    assert set(document["paths"]) == {"/orders/{number}", "/undocumented"}
    for path in document["paths"].values():
        for operation in path.values():
            [content] = operation["responses"]["422"]["content"].items()
            assert content == ("application/problem+json", {"schema": {"$ref": "#/components/schemas/Problem"}})
    assert set(document["paths"]["/orders/{number}"]["get"]["responses"]) == {"200", "404", "422"}


async def test_fastapi_records_nothing_on_its_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    async with open_app_client(app_of(Backends())) as client:
        await client.get("/orders/7")
    assert exporter.get_finished_spans() == ()
