"""Operations that are passed on, as their owners describe them, and what clients see besides."""

from http import HTTPStatus
from typing import Final

from shop_gateway.api import Forward
from shop_openapi.examples import BY_SCHEMA, example_references
from shop_openapi.fields import Document, fields_of, parameter

_SUMMARIES: Final = {"get_jwks": "Get the public keys", "get_me": "Get yourself"}
_DESCRIPTIONS: Final = {204: "Done", 304: "You have the current one"}
_ORDER: Final = {"order_id": "$response.body#/id"}
_MOVE: Final = _ORDER | {"header.If-Match": "$response.header.ETag"}
_USER: Final = {"user_id": "$response.body#/id"}
_LINKS: Final = {
    "get_me": {"get_user": _USER, "get_user_stats": _USER, "get_dashboard": _USER},
    "place_order": {"get_order": _ORDER, "pay_order": _MOVE, "cancel_order": _MOVE},
    "get_order": {"pay_order": _MOVE, "cancel_order": _MOVE},
}


def forwarded(route: Forward, operation: Document) -> Document:
    """Without its errors."""
    by_status = ((HTTPStatus(int(status)), answer) for status, answer in operation["responses"].items())
    well = {status: answer for status, answer in by_status if status < HTTPStatus.BAD_REQUEST}
    versioned = any(_shows_version(status, answer) for status, answer in well.items())
    responses = {
        str(int(status)): _answer(route, status, answer, versioned=versioned) for status, answer in well.items()
    }
    name = operation["operationId"]
    if name in _LINKS:
        links = {to: {"operationId": to, "parameters": dict(given)} for to, given in _LINKS[name].items()}
        responses[min(responses)]["links"] = links
    described = operation | {"summary": _SUMMARIES.get(name, operation["summary"].capitalize()), "responses": responses}
    described.setdefault("security", [])
    if "parameters" in operation:
        described["parameters"] = [parameter(each) for each in operation["parameters"]]
    if "requestBody" in operation:
        described["requestBody"] = operation["requestBody"] | _content(operation["requestBody"])
    return described


def _shows_version(status: int, answer: Document) -> bool:
    """Whether it is one user or order, or all that is said after a change of one."""
    if status == HTTPStatus.NO_CONTENT:
        return "ETag" in answer.get("headers", {})
    return any("version" in BY_SCHEMA[_schema(media)].value for media in answer.get("content", {}).values())


def _answer(route: Forward, status: int, answer: Document, *, versioned: bool) -> Document:
    fields = {name: header.get("required", False) for name, header in answer.get("headers", {}).items()}
    fields["Server-Timing"] = True
    if status != HTTPStatus.NO_CONTENT:
        fields["Cache-Control"] = True
        if route.method == "GET" and not route.public:
            fields["Vary"] = True
    if versioned:
        fields["Consistency-Token"] = True
    content = _content(answer) if "content" in answer else {}
    shown = [BY_SCHEMA[_schema(media)].description for media in answer.get("content", {}).values()]
    return {"description": _DESCRIPTIONS.get(status) or shown[0], "headers": fields_of(status, fields), **content}


def _content(body: Document) -> Document:
    """Each media type with its example."""
    return {"content": {name: media | _example(_schema(media)) for name, media in body["content"].items()}}


def _example(schema: str) -> Document:
    return {"examples": example_references([schema])}


def _schema(media: Document) -> str:
    reference: str = media["schema"]["$ref"]
    return reference.rpartition("/")[2]
