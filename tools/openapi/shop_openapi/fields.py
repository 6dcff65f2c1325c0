"""Header fields: those that the gateway adds to answers, and those that it takes with any request or a dashboard's."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shop_openapi.examples import ORDER_ID, REQUEST_ID, TOKEN, USER_ID

Document = dict[str, Any]

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STATE = "(fresh|stale|failed)"
_POLICY = '"[a-z]+";q=[0-9]+;w=[0-9]+'
_LEFT = '"[a-z]+";r=[0-9]+;t=[0-9]+'
_TOKEN = "[A-Za-z0-9_-]{51,74}"  # noqa: S105 - what one looks like


class Field(NamedTuple):
    description: str
    schema: Mapping[str, Any]
    example: Any


def _text(pattern: str) -> Mapping[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


_WHOLE_SECONDS: Final[Mapping[str, Any]] = {"type": "integer", "minimum": 0}
FIELDS: Final[Mapping[str, Field]] = {
    "Age": Field("Seconds since the oldest section was read", _WHOLE_SECONDS, 4),
    "Cache-Control": Field("Who may keep it", {"type": "string"}, "private, no-cache"),
    "Cache-Status": Field(
        "RFC 9211: `hit` if no section's owner was asked, otherwise why, and for which sections",
        _text('shop-gateway; (hit|fwd=(miss|request); detail="(user|orders|stats)( (orders|stats))*")'),
        'shop-gateway; fwd=miss; detail="orders stats"',
    ),
    "Consistency-Token": Field(
        "What this answer shows; sent with a request for a dashboard, it keeps that from showing less",
        _text(_TOKEN),
        TOKEN,
    ),
    "ETag": Field(
        "Changes when the answer does; of one user or order, the version in quotes", _text('(W/)?"[!#-~]+"'), '"3"'
    ),
    "Idempotency-Replayed": Field("The key was used before; this is the answer it got", _text("true"), "true"),
    "Location": Field("Where to read it", _text(f"/v1/(users|orders)/{_UUID}"), f"/v1/orders/{ORDER_ID}"),
    "RateLimit": Field(
        "Requests left now, and seconds until there is one more, of each quota the request was counted under",
        _text(f"{_LEFT}(, {_LEFT})*"),
        '"default";r=99;t=1, "login";r=9;t=6',
    ),
    "RateLimit-Policy": Field(
        "The quotas the request was counted under: so many in so many seconds",
        _text(f"{_POLICY}(, {_POLICY})*"),
        '"default";q=100;w=60, "login";q=10;w=60',
    ),
    "Retry-After": Field("Seconds to wait", _WHOLE_SECONDS, 1),
    "Section-Status": Field(
        "How each section came about",
        _text(f"user=(fresh|stale), orders={_STATE}, stats={_STATE}"),
        "user=fresh, orders=fresh, stats=failed",
    ),
    "Server-Timing": Field(
        "Milliseconds of each call onward, and of the whole",
        _text(r"([a-z]+;dur=[0-9]+\.[0-9], )*total;dur=[0-9]+\.[0-9]"),
        "users;dur=3.1, total;dur=3.9",
    ),
    "Vary": Field("What else the answer depends on", {"type": "string"}, "Authorization, Accept-Encoding"),
    "WWW-Authenticate": Field("What to send, and what was wrong", _text("Bearer.*"), 'Bearer error="invalid_token"'),
    "X-Process-Time": Field("Seconds", {"type": "number", "minimum": 0}, 0.004173),
    "X-Request-Id": Field(
        "The request's, to be quoted in reports: the one sent with it, or one made here",
        _text("[A-Za-z0-9._-]{1,64}"),
        REQUEST_ID,
    ),
}
OPTIONAL: Final = "Optional"
_SERVER_HANGS_UP: Final = frozenset({400, 408, 431, 503})
"""Statuses that a connection may end with before there is a request to have an id, or before it may be tried again."""
_NEVER_COUNTED: Final = frozenset({408, 413, 431})
_SOMETIMES_COUNTED: Final = frozenset({400, 503, 504})


def fields_of(status: int, own: Mapping[str, bool]) -> Document:
    """References to an answer's fields: those every answer has, and its own, by whether they are always there."""
    hung_up = status in _SERVER_HANGS_UP
    fields = {"X-Request-Id": not hung_up, "X-Process-Time": not hung_up}
    if status not in _NEVER_COUNTED:
        counted = status not in _SOMETIMES_COUNTED
        fields |= {"RateLimit-Policy": counted, "RateLimit": counted}
    fields |= {name: always and not hung_up for name, always in own.items()}
    return {name: _reference(name, always=always) for name, always in fields.items()}


def _reference(name: str, *, always: bool) -> Document:
    return {"$ref": f"#/components/headers/{'' if always else OPTIONAL}{name}"}


def header_component(name: str) -> Document:
    field = FIELDS[name.removeprefix(OPTIONAL)]
    return {
        "description": field.description,
        "required": not name.startswith(OPTIONAL),
        "schema": dict(field.schema),
        "example": field.example,
    }


def _parameter(name: str, description: str, schema: Mapping[str, Any], example: Any) -> Document:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": dict(schema),
        "example": example,
    }


ANY_REQUEST: Final = ("X-Request-Id", "X-Deadline-Ms", "traceparent")
DASHBOARD_REQUEST: Final = ("If-None-Match", "Cache-Control", "Prefer", "Consistency-Token")
PARAMETERS: Final[Mapping[str, Document]] = {
    parameter["name"]: parameter
    for parameter in (
        _parameter(
            "X-Request-Id",
            "Up to 64 letters, digits, dots, underscores and hyphens; anything else is replaced",
            {"type": "string"},
            REQUEST_ID,
        ),
        _parameter(
            "X-Deadline-Ms",
            "Milliseconds after which the answer is of no use any more: it comes before, or is 504",
            {"type": "integer", "minimum": 0, "maximum": 9_999_999},
            5000,
        ),
        _parameter(
            "traceparent",
            "The trace that the request belongs to (W3C Trace Context)",
            {"type": "string"},
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        _parameter("If-None-Match", "The ETag of what you have: 304 if it is current", {"type": "string"}, '"3"'),
        _parameter("Cache-Control", "`no-cache`: every section is read from its owner", {"type": "string"}, "no-cache"),
        _parameter(
            "Prefer",
            "`handling=strict`: 502 or 504 instead of an answer with a section that could not be read",
            {"type": "string"},
            "handling=strict",
        ),
        _parameter(
            "Consistency-Token",
            "Up to 8 that answers gave, separated by commas: no section is older than what those showed",
            _text(f"({_TOKEN}( *, *{_TOKEN}){{0,7}})?"),
            TOKEN,
        ),
        _parameter(
            "Last-Event-ID",
            "The `id` of the last event received: if anything was missed since, `dashboard_changed` comes first",
            {"type": "string"},
            "17.42",
        ),
    )
}
_DESCRIBED: Final[Mapping[str, Document]] = {
    "user_id": {"description": "Whose", "example": USER_ID},
    "order_id": {"description": "Which order", "example": ORDER_ID},
    "limit": {"description": "Entries on a page", "example": 20},
    "status": {"description": "Only orders in this state", "example": "paid"},
}


def parameter(given: Document) -> Document:
    """A parameter as its service has it, and what the service leaves unsaid."""
    name = given["name"]
    return parameter_reference(name) if name in PARAMETERS else {**_DESCRIBED.get(name, {}), **given}


def parameter_reference(name: str) -> Document:
    return {"$ref": f"#/components/parameters/{name}"}
