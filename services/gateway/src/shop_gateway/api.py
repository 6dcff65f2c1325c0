"""HTTP in: the table of what is passed on to whom, and the dashboard. Plain ASGI, since nothing here parses a body."""

import math
import re
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.types import Receive, Scope, Send

from shop_common.context import before_deadline
from shop_common.preconditions import is_unchanged
from shop_common.protocol import CONNECTION
from shop_gateway.consistency import HEADER as CONSISTENCY_HEADER
from shop_gateway.consistency import Written, create_token, find_version, find_written, read_tokens
from shop_gateway.errors import InvalidPath
from shop_gateway.headers import query_text, to_upstream, wants_all_or_nothing, wants_no_cache
from shop_gateway.models import CALLER, Answer, Ask, Call, Caller, Owner, Whole
from shop_gateway.resources import Resources
from shop_gateway.schemas import (
    cache_status,
    create_whole,
    dashboard_body,
    section_status,
    whole_fields,
)
from shop_gateway.sections import RequiredRefused
from shop_gateway.service import Dashboards

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WITH_BODY = frozenset({"POST", "PATCH"})
WITHOUT_BODY: Final = frozenset({204, 304})


_BOARD = {"content-type": "application/json"}
_STREAM = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # which nginx would do
]


class Reply(NamedTuple):
    status: int
    headers: MutableMapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """Passes one route on to the service that owns it."""

    method: str
    path: str
    owner: Owner
    public: bool = False
    keyed: bool = False
    """Its owner heeds `Idempotency-Key`: sent with one, the request may be tried again."""

    async def __call__(self, scope: Scope, receive: Receive) -> Reply:
        if not self.public:
            _caller(scope).authenticated()
        target = _checked_path(scope)
        if query := scope["query_string"]:
            target = f"{target}?{query_text(query)}"
        body = await _body(receive) if self.method in _WITH_BODY else None
        headers = to_upstream(scope["headers"])
        repeatable = self.method == "GET" or (self.keyed and "idempotency-key" in headers)
        call = Call(self.method, self.path, target, headers, body, repeatable)
        started = time.perf_counter()
        answer = await _resources(scope).upstreams[self.owner].call(call, before_deadline(math.inf))
        reply = _passed_on(answer, _timing(_caller(scope).arrived, [(self.owner, time.perf_counter() - started)]))
        if self.method != "GET":
            if written := find_written(self.owner, answer) or _deactivated(scope, answer):
                await _resources(scope).freshness.on_write(written)
                reply.headers[CONSISTENCY_HEADER] = create_token(written.aggregate_id, written.version)
        elif not self.public and (version := find_version(answer)) is not None:
            reply.headers[CONSISTENCY_HEADER] = create_token(_shown(scope), version)
        return reply


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Gathers what both services own of one user: of `{user_id}`, or of whoever asks."""

    path: str
    method: str = "GET"

    async def __call__(self, scope: Scope, _: Receive) -> Reply:
        caller = _caller(scope)
        principal = caller.authenticated()
        _checked_path(scope)
        dashboards = _resources(scope).dashboards
        user_id = scope["path_params"].get("user_id", principal.user_id).lower()
        raw = scope["headers"]
        headers = to_upstream(raw)
        # What others may see is for their owners to say: there is nothing in memory for whoever may not.
        live = wants_no_cache(raw) or not principal.may_see(user_id)
        ask = Ask(
            user_id,
            {"authorization": headers["authorization"]},
            caller.arrived,
            wants_all_or_nothing(raw),
            live,
            read_tokens(raw),
        )
        if not live and not ask.at_least and (user := dashboards.find_fresh(user_id)) is not None:
            whole = dashboards.from_memory(user)
            return _whole(whole, headers.get("if-none-match"), {"server-timing": _timing(ask.arrived, [])})
        return await gathered(dashboards, ask, headers.get("if-none-match"))


async def gathered(dashboards: Dashboards, ask: Ask, if_none_match: str | None) -> Reply:
    """What is asked for, in whole or in part; UpstreamError where that cannot be had."""
    try:
        sections = await dashboards.gather(ask)
    except RequiredRefused as refused:
        return _passed_on(refused.answer, _timing(ask.arrived, []))
    timing = _timing(ask.arrived, [(section.name, section.seconds) for section in sections])
    fields = {"cache-status": cache_status(sections, live=ask.live), "server-timing": timing}
    if {section.state for section in sections} == {"fresh"}:
        return _whole(create_whole(sections), if_none_match, fields)
    fields |= {"vary": "Authorization", "cache-control": "no-store", "section-status": section_status(sections)}
    return Reply(200, _BOARD | fields, dashboard_body(sections))


def _whole(whole: Whole, if_none_match: str | None, own: Mapping[str, str]) -> Reply:
    """All of it, or 304."""
    age = str(int(time.monotonic() - whole.as_of))
    fields = {**whole_fields(whole), "age": age, "vary": "Authorization", **own}
    if is_unchanged(if_none_match, whole.etag):
        return Reply(304, fields, b"")
    return Reply(200, _BOARD | fields, whole.body)


@dataclass(frozen=True, slots=True)
class Events:
    """A stream that tells who asks that their dashboard has changed."""

    path: str
    method: str = "GET"

    async def stream(self, scope: Scope, send: Send) -> None:
        principal = _caller(scope).authenticated()
        headers = to_upstream(scope["headers"])
        last = b"".join(value for name, value in scope["headers"] if name == b"last-event-id").decode("latin-1")
        streams = _resources(scope).streams
        stream, greeting = streams.open(scope[CONNECTION], principal, headers["authorization"], last)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
            await send({"type": "http.response.body", "body": greeting, "more_body": True})
        except BaseException:
            stream.on_closed()
            raise
        stream.begin()


ROUTES: tuple[Forward | Dashboard | Events, ...] = (
    Forward("GET", "/.well-known/jwks.json", "users", public=True),
    Forward("POST", "/v1/auth/token", "users", public=True),
    Forward("POST", "/v1/auth/refresh", "users", public=True),
    Forward("POST", "/v1/auth/logout", "users", public=True),
    Forward("GET", "/v1/me", "users"),
    Dashboard("/v1/me/dashboard"),
    Events("/v1/me/events"),
    Forward("GET", "/v1/users", "users"),
    Forward("POST", "/v1/users", "users", public=True),
    Forward("GET", "/v1/users/{user_id}", "users"),
    Forward("PATCH", "/v1/users/{user_id}", "users"),
    Forward("DELETE", "/v1/users/{user_id}", "users"),
    Forward("POST", "/v1/users/{user_id}/password", "users"),
    Forward("GET", "/v1/users/{user_id}/stats", "users"),
    Dashboard("/v1/users/{user_id}/dashboard"),
    Forward("GET", "/v1/orders", "orders"),
    Forward("POST", "/v1/orders", "orders", keyed=True),
    Forward("GET", "/v1/orders/{order_id}", "orders"),
    Forward("POST", "/v1/orders/{order_id}/pay", "orders", keyed=True),
    Forward("POST", "/v1/orders/{order_id}/cancel", "orders", keyed=True),
)
PUBLIC: Final = tuple((route.method, route.path) for route in ROUTES if isinstance(route, Forward) and route.public)
"""Routes without a token, by method and path; none has an id in it."""


def _resources(scope: Scope) -> Resources:
    resources: Resources = scope["app"].state.resources
    return resources


def _caller(scope: Scope) -> Caller:
    caller: Caller = scope[CALLER]
    return caller


def _checked_path(scope: Scope) -> str:
    """The decoded path: the table's own text and UUIDs, so nothing in it can be read differently upstream."""
    for name, value in scope["path_params"].items():
        if not _UUID.fullmatch(value):
            raise InvalidPath("Must be a UUID with hyphens", pointer=f"#path/{name}")
    path: str = scope["path"]
    return path


async def _body(receive: Receive) -> bytes:
    """The whole body, which the request middleware has already taken and bounded."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _shown(scope: Scope) -> str:
    """What an answer with a version is about: what its path names, or who asks."""
    named: list[str] = list(scope["path_params"].values())
    return (named or [_caller(scope).authenticated().user_id])[0].lower()


def _deactivated(scope: Scope, answer: Answer) -> Written | None:
    """The one write that is answered without a body."""
    version = find_version(answer) if answer.status == HTTPStatus.NO_CONTENT else None
    return None if version is None else Written(_shown(scope), _shown(scope), version)


def _passed_on(answer: Answer, timing: str) -> Reply:
    return Reply(answer.status, {**answer.headers, "server-timing": timing}, answer.body)


def _timing(arrived: float, sections: list[tuple[str, float]]) -> str:
    """`Server-Timing`: milliseconds of each call onward, and of the whole."""
    total = time.monotonic() - arrived
    return ", ".join([f"{name};dur={seconds * 1000:.1f}" for name, seconds in [*sections, ("total", total)]])
