"""The gateway's own operations: dashboards, and the stream that tells of their changes."""

from typing import Final

from pydantic.json_schema import models_json_schema

from shop_common.errors import Unauthenticated
from shop_gateway.errors import InvalidPath, TooManyStreams, UpstreamFailed
from shop_gateway.schemas import DashboardChanged, SectionState, StreamEnd
from shop_openapi.examples import DASHBOARDS, EVENTS, example_references
from shop_openapi.fields import DASHBOARD_REQUEST, Document, fields_of, parameter, parameter_reference
from shop_openapi.problems import codes_of

SCHEMAS: Final = "#/components/schemas/"
_TAGS: Final = ["dashboard"]
_SECURITY: Final[list[dict[str, list[str]]]] = [{"OAuth2PasswordBearer": []}]
EVENTS_CODES: Final = {Unauthenticated.code, TooManyStreams.code}
_DASHBOARD: Final = """\
Profile, latest orders and statistics: from memory where nothing has changed since they were read, otherwise from \
their owners, asked at once. The profile is required: its owner's refusal is the whole's. Of the others, one that \
cannot be read is null, or as it was last; `_sections` and `Section-Status` tell, and such an answer has no ETag."""
_EVENTS: Final = """\
Server-sent events; the schema is that of one of them, whose `data` is JSON.

The first is `ready`, or `dashboard_changed` if anything may have been missed since `Last-Event-ID`. \
`dashboard_changed` comes when nothing older is answered any more, once for all that changed while the client was \
slow; statistics follow an order a moment later. `end` is the last: after `token_expired` and `revoked` log in again, \
after `shutdown` just come back. Comments show that the stream lives."""


def schemas(documents: dict[str, Document]) -> Document:
    """Of what only the gateway answers."""
    models = (SectionState, DashboardChanged, StreamEnd)
    _, made = models_json_schema([(model, "serialization") for model in models], ref_template=SCHEMAS + "{model}")
    return {**made["$defs"], "Dashboard": _dashboard_schema(documents), "DashboardEvent": _event_schema()}


def dashboard(path: str, documents: dict[str, Document]) -> Document:
    """Without its errors."""
    by_id = "{user_id}" in path
    user = documents["users"]["paths"]["/v1/users/{user_id}"]["get"]
    in_path = [parameter(each) for each in user["parameters"] if each["in"] == "path" and by_id]
    always = dict.fromkeys(("Cache-Control", "Cache-Status", "Section-Status", "Server-Timing", "Vary"), True)
    body = {"schema": {"$ref": f"{SCHEMAS}Dashboard"}, "examples": example_references(DASHBOARDS)}
    shown = {
        "description": "All of it, or what there is",
        "headers": fields_of(200, always | {"Age": False, "ETag": False}),
        "content": {"application/json": body},
    }
    current = {
        "description": "You have the current one",
        "headers": fields_of(304, always | {"Age": True, "ETag": True}),
    }
    return {
        "tags": _TAGS,
        "summary": "Get the dashboard of a user" if by_id else "Get your dashboard",
        "description": _DASHBOARD,
        "operationId": "get_dashboard" if by_id else "get_my_dashboard",
        "security": _SECURITY,
        "parameters": [*in_path, *map(parameter_reference, DASHBOARD_REQUEST)],
        "responses": {"200": shown, "304": current},
    }


def dashboard_codes(path: str, documents: dict[str, Document]) -> set[str]:
    """The profile's, and what becomes of the others if all are wanted."""
    in_path = {InvalidPath.code}
    profile = codes_of(documents["users"]["paths"]["/v1/users/{user_id}"]["get"]) - in_path
    return profile | {UpstreamFailed.code} | (in_path if "{user_id}" in path else set())


def _dashboard_schema(documents: dict[str, Document]) -> Document:
    def answer(owner: str, path: str) -> Document:
        schema: Document = documents[owner]["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        return schema["schema"]  # type: ignore[no-any-return] # a part of a JSON document

    sections = {
        "user": answer("users", "/v1/users/{user_id}"),
        "orders": {"anyOf": [answer("orders", "/v1/orders"), {"type": "null"}]},
        "stats": {"anyOf": [answer("users", "/v1/users/{user_id}/stats"), {"type": "null"}]},
    }
    states = {name: {"$ref": f"{SCHEMAS}SectionState"} for name in sections}
    return _closed_object({**sections, "_sections": _closed_object(states)})


def events() -> Document:
    """Without its errors."""
    event = {"schema": {"$ref": f"{SCHEMAS}DashboardEvent"}, "examples": example_references(EVENTS)}
    stream = {
        "description": "Events, until one is `end`",
        "headers": fields_of(200, {"Cache-Control": True}),
        "content": {"text/event-stream": event},
    }
    return {
        "tags": _TAGS,
        "summary": "Be told when your dashboard has changed",
        "description": _EVENTS,
        "operationId": "stream_my_events",
        "security": _SECURITY,
        "parameters": [parameter_reference("Last-Event-ID")],
        "responses": {"200": stream},
    }


def _event_schema() -> Document:
    def event(name: str, data: Document, *required: str) -> Document:
        properties = {
            "event": {"type": "string", "const": name},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
            "id": {"type": "string", "description": "For `Last-Event-ID`", "pattern": r"^-?[0-9]+\.-?[0-9]+\+?$"},
            "retry": {"type": "integer", "description": "Milliseconds to wait before coming back"},
        }
        return _closed_object(properties) | {"required": ["event", "data", *required]}

    changed, end = ({"$ref": f"{SCHEMAS}{model.__name__}"} for model in (DashboardChanged, StreamEnd))
    ready = _closed_object({})
    return {
        "oneOf": [event("ready", ready, "id", "retry"), event("dashboard_changed", changed, "id"), event("end", end)]
    }


def _closed_object(properties: Document) -> Document:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
