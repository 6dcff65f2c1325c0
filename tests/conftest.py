"""What the tests of the whole cluster share: a client of the gateway, people, and traces fetched by their id."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import pytest

from shop_cluster.pytest_plugin import Cluster

T = TypeVar("T")
Eventually = Callable[[Callable[[], Awaitable[T | None]]], Awaitable[T]]
_PATIENCE_SECONDS = 30.0


@pytest.fixture
async def gateway(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=cluster.gateway_url, timeout=10, trust_env=False) as client:
        yield client


async def eventually(attempt: Callable[[], Awaitable[T | None]], what: str) -> T:
    """The first result of `attempt` that is not None, or a failure that says what never came."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < give_up:
        if (result := await attempt()) is not None:
            return result
        await asyncio.sleep(0.05)
    pytest.fail(f"after {_PATIENCE_SECONDS:g} s: {what}")


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Awaitable[Any]]:
    return eventually


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody registered and logged in; none of these texts may show up in a trace."""

    id: str
    email: str
    username: str
    full_name: str
    password: str
    bearer: dict[str, str]
    refresh_token: str

    @property
    def personal_data(self) -> tuple[str, ...]:
        return self.email, self.username, self.full_name, self.password


async def register_person(gateway: httpx.AsyncClient) -> Person:
    tag = secrets.token_hex(6)
    account = {
        "email": f"{tag}@example.com",
        "username": f"name-{tag}",
        "full_name": f"Person {tag}",
        "password": f"secret {tag}",
    }
    created = await gateway.post("/v1/users", json=account)
    assert created.status_code == 201, created.text
    form = {"username": account["email"], "password": account["password"]}
    granted = await gateway.post("/v1/auth/token", data=form)
    assert granted.status_code == 200, granted.text
    tokens = granted.json()
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    return Person(id=created.json()["id"], bearer=bearer, refresh_token=tokens["refresh_token"], **account)


RegisterPerson = Callable[[], Awaitable[Person]]


@pytest.fixture
def register(gateway: httpx.AsyncClient) -> RegisterPerson:
    return lambda: register_person(gateway)


def _lasting_person(cluster: Cluster) -> Person:
    async def make() -> Person:
        async with httpx.AsyncClient(base_url=cluster.gateway_url, timeout=30, trust_env=False) as gateway:
            return await register_person(gateway)

    return asyncio.run(make())


@pytest.fixture(scope="session")
def ada(cluster: Cluster) -> Person:
    """For tests that leave her as she is: a registration and a login cost more than most tests."""
    return _lasting_person(cluster)


@pytest.fixture(scope="session")
def eve(cluster: Cluster) -> Person:
    """Another one."""
    return _lasting_person(cluster)


@dataclass(frozen=True, slots=True)
class Span:
    id: str
    parent: str | None
    service: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Trace:
    """One trace as Jaeger has it; `text` is the whole answer, for seeing what must not be in it."""

    spans: dict[str, Span]
    text: str

    def lineages(self) -> set[tuple[str, ...]]:
        """Per span, the kinds and services from the root to it, e.g. `("server gateway", "client gateway", …)`."""
        return {tuple(self._lineage(span)) for span in self.spans.values()}

    def has_path(self, *path: str) -> bool:
        """Whether some span descends through these `kind service` steps in order, others between them allowed."""
        return any(_is_subsequence(path, lineage) for lineage in self.lineages())

    def orphans(self, root_parent: str) -> list[Span]:
        """Spans whose parent is neither in the trace nor the caller's own span."""
        known = {*self.spans, root_parent}
        return [span for span in self.spans.values() if span.parent not in known]

    def _lineage(self, span: Span) -> list[str]:
        parent = self.spans.get(span.parent or "")
        return [*(self._lineage(parent) if parent else []), f"{span.kind} {span.service}"]


def _is_subsequence(wanted: tuple[str, ...], steps: tuple[str, ...]) -> bool:
    remaining = iter(steps)
    return all(step in remaining for step in wanted)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A trace the test begins itself, so that it can be asked for by id."""

    trace_id: str
    span_id: str

    @property
    def header(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-01"}


@pytest.fixture
def trace_context() -> TraceContext:
    return TraceContext(secrets.token_hex(16), secrets.token_hex(8))


FetchTrace = Callable[[TraceContext, Callable[[Trace], bool]], Awaitable[Trace]]


@pytest.fixture
async def fetch_trace(cluster: Cluster) -> AsyncIterator[FetchTrace]:
    """Fetch a trace once it satisfies a condition and has no orphans; what there is of it is shown otherwise."""
    async with httpx.AsyncClient(base_url=cluster.jaeger_url, timeout=5, trust_env=False) as jaeger:

        async def fetch(context: TraceContext, complete: Callable[[Trace], bool]) -> Trace:
            latest: Trace | None = None

            async def attempt() -> Trace | None:
                nonlocal latest
                response = await jaeger.get(f"/api/traces/{context.trace_id}")
                if response.status_code != 200:
                    return None
                latest = _parse_trace(response)
                # Processes export on their own time: a child may be there before its parent.
                return latest if complete(latest) and not latest.orphans(context.span_id) else None

            try:
                return await eventually(attempt, "the trace is not complete")
            except pytest.fail.Exception:
                seen = "\n".join(sorted(" > ".join(steps) for steps in latest.lineages())) if latest else "nothing"
                orphans = latest.orphans(context.span_id) if latest else []
                pytest.fail(f"trace {context.trace_id} never became complete; orphans: {orphans}; it has:\n{seen}")

        yield fetch


def _parse_trace(response: httpx.Response) -> Trace:
    (trace,) = response.json()["data"]
    spans = {}
    for span in trace["spans"]:
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        parents = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
        spans[span["spanID"]] = Span(
            id=span["spanID"],
            parent=parents[0] if parents else None,
            service=trace["processes"][span["processID"]]["serviceName"],
            kind=tags.get("span.kind", "internal"),
            name=span["operationName"],
        )
    return Trace(spans, response.text)


@pytest.fixture
async def admin(cluster: Cluster, gateway: httpx.AsyncClient) -> dict[str, str]:
    """The first administrator's bearer header."""
    form = {"username": cluster.admin_email, "password": cluster.admin_password}
    granted = await gateway.post("/v1/auth/token", data=form)
    assert granted.status_code == 200, granted.text
    return {"Authorization": f"Bearer {granted.json()['access_token']}"}
