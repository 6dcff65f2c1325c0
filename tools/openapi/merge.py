"""Make the gateway's OpenAPI document of the services' own: `merge.py` writes it, `merge.py --check` compares it.

Every route of the gateway's table must be in its owner's document and the other way round; what the gateway adds to
each answer, and its own dashboard, are described here. Exit code 1 with one line where that does not work out.
"""  # noqa: INP001 - a script, not a package

import argparse
import json
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from shop_common.errors import AppError, NotFound, Unauthenticated
from shop_common.problems import problems
from shop_common.request import ANY_REQUEST
from shop_gateway import errors
from shop_gateway.api import ROUTES, Dashboard, Forward
from shop_gateway.schemas import SectionState
from shop_orders.app import create_app as create_orders
from shop_orders.settings import Settings as OrdersSettings
from shop_users.app import create_app as create_users
from shop_users.settings import Settings as UsersSettings

Document = dict[str, Any]

SNAPSHOT = Path(__file__).parents[2] / "services/gateway/src/shop_gateway/openapi.json"
SCHEMAS = "#/components/schemas/"
SECURITY: list[dict[str, list[str]]] = [{"OAuth2PasswordBearer": []}]
UPSTREAM_ERRORS = (
    errors.RateLimited,
    errors.UpstreamUnreachable,
    errors.UpstreamMalformed,
    errors.UpstreamBusy,
    errors.CircuitOpen,
    errors.UpstreamDeadline,
)
HEADERS = {
    "RateLimitPolicy": ("The client's quota and its window in seconds", '"default";q=100;w=60'),
    "RateLimit": ("Requests left now, and seconds until there is one more", '"default";r=99;t=1'),
    "ServerTiming": ("Milliseconds of each call onward and of the whole", "users;dur=3.1, total;dur=3.9"),
    "SectionStatus": ("How each section came about", "user=fresh, orders=failed, stats=fresh"),
    "RetryAfter": ("Seconds to wait", "1"),
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`handling=strict`: 502 or 504 instead of an answer with a failed section",
    "schema": {"type": "string"},
    "example": "handling=strict",
}


class Disagreement(Exception):
    """The documents and the table do not fit together."""


def services() -> dict[str, Document]:
    """Each service's document; nothing is opened, so the settings only have to be valid."""
    elsewhere: dict[str, Any] = {"kafka": {"bootstrap_servers": "kafka:9092"}, "cursor_key": "x" * 32}
    users = UsersSettings(postgres={"dsn": "postgresql://users@postgres/users"}, signing_keys_dir="/keys", **elsewhere)
    tokens = {"jwks_url": "http://users/.well-known/jwks.json"}
    orders = OrdersSettings(mongo={"url": "mongodb://mongo", "database": "orders"}, tokens=tokens, **elsewhere)
    return {"users": create_users(users).openapi(), "orders": create_orders(orders).openapi()}


def merge(documents: dict[str, Document]) -> Document:
    components = _components(documents)
    paths: Document = {}
    for route in ROUTES:
        operation = _dashboard(route, documents) if isinstance(route, Dashboard) else _operation(route, documents)
        paths.setdefault(route.path, {})[route.method.lower()] = _with_edge(operation)
    _require_all_routed(documents, paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shop API", "version": "1.0.0", "description": "Users, their orders, and both at once."},
        "paths": paths,
        "components": components,
    }


def _components(documents: dict[str, Document]) -> Document:
    """All components of all documents, which must mean the same where they have the same name."""
    merged: Document = {}
    for owner, document in documents.items():
        for kind, named in document["components"].items():
            for name, definition in named.items():
                known = merged.setdefault(kind, {}).setdefault(name, definition)
                if known != definition:
                    raise Disagreement(f"{owner} has another {kind[:-1]} {name} than the others; rename one of them")
    _, sections = models_json_schema([(SectionState, "serialization")], ref_template=SCHEMAS + "{model}")
    merged["schemas"] |= sections["$defs"]
    merged["headers"] = {
        name: {"description": description, "schema": {"type": "string"}, "example": example}
        for name, (description, example) in HEADERS.items()
    }
    return {kind: dict(sorted(named.items())) for kind, named in sorted(merged.items())}


def _operation(route: Forward, documents: dict[str, Document]) -> Document:
    operation: Document | None = documents[route.owner]["paths"].get(route.path, {}).get(route.method.lower())
    if operation is None:
        raise Disagreement(f"{route.owner} has no {route.method} {route.path}; correct the gateway's table")
    if route.public == bool(operation.get("security")):
        raise Disagreement(f"{route.method} {route.path} is public in one place only; correct the gateway's table")
    return operation


def _require_all_routed(documents: dict[str, Document], paths: Document) -> None:
    for owner, document in documents.items():
        for path, operations in document["paths"].items():
            for method in operations:
                if method not in paths.get(path, {}):
                    raise Disagreement(f"{method.upper()} {path} of {owner} is not in the gateway's table; add it")


def _dashboard(route: Dashboard, documents: dict[str, Document]) -> Document:
    by_id = "{user_id}" in route.path
    whose = "of one user" if by_id else "of whoever asks"
    user = documents["users"]["paths"]["/v1/users/{user_id}"]["get"]
    path_parameters = [parameter for parameter in user["parameters"] if parameter["in"] == "path"]
    answer = {
        "description": "Whole or partial: a failed section is null, and `_sections` says why",
        "headers": {
            "Section-Status": {"$ref": "#/components/headers/SectionStatus"},
            "Server-Timing": {"$ref": "#/components/headers/ServerTiming"},
        },
        "content": {"application/json": {"schema": _dashboard_schema(documents)}},
    }
    answers = _answers(
        *(*ANY_REQUEST, Unauthenticated, NotFound, errors.UpstreamFailed),
        *([errors.InvalidPath] if by_id else []),
    )
    return {
        "tags": ["dashboard"],
        "summary": f"Get the dashboard {whose}",
        "description": f"Profile, latest orders and statistics {whose}, asked for at once. The profile is required.",
        "operationId": "get_dashboard" if by_id else "get_my_dashboard",
        "security": SECURITY,
        "parameters": [*(path_parameters if by_id else []), PREFER],
        "responses": {"200": answer, **answers},
    }


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


def _closed_object(properties: Document) -> Document:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def _with_edge(operation: Document) -> Document:
    """The operation with what the gateway may answer instead, and the fields it adds to every answer."""
    responses: Document = {status: dict(response) for status, response in operation["responses"].items()}
    for status, response in _answers(*UPSTREAM_ERRORS).items():
        known = responses.setdefault(status, response)
        phrase, _, codes = known["description"].partition(": ")
        more = response["description"].partition(": ")[2]
        known["description"] = f"{phrase}: {', '.join(dict.fromkeys([*codes.split(', '), *more.split(', ')]))}"
    for status, response in responses.items():
        added = {name: {"$ref": f"#/components/headers/{name.replace('-', '')}"} for name in _fields(status)}
        response["headers"] = {**response.get("headers", {}), **added}
    return {**operation, "responses": dict(sorted(responses.items()))}


def _fields(status: str) -> list[str]:
    waits = [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE]
    return ["RateLimit-Policy", "RateLimit", *(["Retry-After"] if int(status) in waits else [])]


def _answers(*classes: type[AppError]) -> dict[str, Document]:
    """Problem responses by status; 422, which `problems()` always has, only where one of the classes is."""
    wanted = {error.status for error in classes}
    return {str(status): response for status, response in problems(*classes).items() if status in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if the snapshot is out of date"
    )
    arguments = parser.parse_args()
    try:
        text = json.dumps(merge(services()), indent=1, ensure_ascii=False) + "\n"
    except Disagreement as disagreement:
        sys.exit(str(disagreement))
    if not arguments.check:
        SNAPSHOT.write_text(text)
    elif not SNAPSHOT.exists() or SNAPSHOT.read_text() != text:
        sys.exit(f"{SNAPSHOT.name} is not what the services' code says; run `make openapi`")


if __name__ == "__main__":
    main()
