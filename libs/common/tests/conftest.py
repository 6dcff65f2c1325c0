"""What the common library's tests share: one application to build on, and a way to call it below HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message

from shop_common.health import Check
from shop_common.service import service_app
from shop_common.settings import HttpServerSettings, ServiceSettings, TracingSettings


@dataclass(frozen=True, slots=True)
class Resources:
    checks: Mapping[str, Check] = field(default_factory=dict)


@asynccontextmanager
async def open_nothing(settings: ServiceSettings) -> AsyncIterator[Resources]:
    yield Resources()


BuildApp = Callable[..., FastAPI]


@pytest.fixture
def build_app() -> BuildApp:
    """`build_app(router, limit_concurrency=1, …)`: a service with these routes and HTTP settings."""

    def build(router: APIRouter | None = None, tracing: TracingSettings | None = None, **http: Any) -> FastAPI:
        settings = ServiceSettings(http=HttpServerSettings(**http), tracing=tracing or TracingSettings())
        return service_app("demo", settings, open_nothing, routers=[router] if router else [])

    return build


@dataclass(slots=True)
class Exchange:
    """What an application sent for one request."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def problem(self) -> Any:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


Call = Callable[..., Awaitable[Exchange]]


@pytest.fixture
def call() -> Call:
    """`await call(app, "POST", "/x", {"content-length": "3"}, [b"a", b"bc"])`.

    None in the body cuts it off; with `hangs_up` the client goes once it has sent it.
    """

    async def run(
        app: ASGIApp,
        method: str = "GET",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: Sequence[bytes | None] = (),
        *,
        hangs_up: bool = False,
    ) -> Exchange:
        exchange, parts = Exchange(), list(body)

        async def receive() -> Message:
            if not parts and hangs_up:
                return {"type": "http.disconnect"}
            if not parts:
                await asyncio.Event().wait()  # as a server does for a client that sends nothing more
            part = parts.pop(0)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Message) -> None:
            exchange.messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        }
        await app(scope, receive, send)
        return exchange

    return run
