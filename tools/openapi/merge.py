"""Make the gateway's OpenAPI document of the services' own: `merge.py` writes it, `merge.py --check` compares it.

Every route of the gateway's table must be in its owner's document and the other way round. What the gateway adds to
each answer, and what it answers itself, is in `shop_openapi`. Exit code 1 with one line where that does not work out.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shop_common.errors import AppError
from shop_common.request import ANY_REQUEST
from shop_gateway import errors
from shop_gateway.api import ROUTES, Dashboard, Events, Forward
from shop_openapi import own, texts
from shop_openapi.examples import BY_NAME, Example
from shop_openapi.fields import ANY_REQUEST as ANY_REQUEST_FIELDS
from shop_openapi.fields import PARAMETERS, Document, header_component, parameter_reference
from shop_openapi.forwarded import forwarded
from shop_openapi.problems import BY_CODE, HeadTimeout, answer_component, answers, codes_of, example_component
from shop_orders.app import create_app as create_orders
from shop_orders.settings import Settings as OrdersSettings
from shop_users.app import create_app as create_users
from shop_users.settings import Settings as UsersSettings

SNAPSHOT = Path(__file__).parents[2] / "services/gateway/src/shop_gateway/openapi.json"
_EDGE_ERRORS: tuple[type[AppError], ...] = (*ANY_REQUEST, HeadTimeout, errors.RateLimited)
_UPSTREAM_ERRORS: tuple[type[AppError], ...] = (
    errors.CircuitOpen,
    errors.UpstreamBusy,
    errors.UpstreamDeadline,
    errors.UpstreamMalformed,
    errors.UpstreamUnreachable,
)
_EDGE = {error.code for error in _EDGE_ERRORS}
_UPSTREAM = {error.code for error in _UPSTREAM_ERRORS}


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
        operation, codes = _described(route, documents)
        if unknown := codes - set(BY_CODE):
            raise Disagreement(f"{', '.join(unknown)} of {route.path} has no example; add one to problems.py")
        operation["parameters"] = [*operation.get("parameters", []), *map(parameter_reference, ANY_REQUEST_FIELDS)]
        responses = operation["responses"] | answers(codes | _EDGE)
        paths.setdefault(route.path, {})[route.method.lower()] = operation | {
            "responses": dict(sorted(responses.items()))
        }
    _require_all_routed(documents, paths)
    return {**texts.HEAD, "paths": paths, "components": _with_used(components, paths)}


def _components(documents: dict[str, Document]) -> Document:
    """All components of all documents, which must mean the same where they have the same name."""
    merged: Document = {}
    for owner, document in documents.items():
        for kind, named in document["components"].items():
            for name, definition in named.items():
                known = merged.setdefault(kind, {}).setdefault(name, definition)
                if known != definition:
                    raise Disagreement(f"{owner} has another {kind[:-1]} {name} than the others; rename one of them")
    merged["schemas"] |= own.schemas(documents)
    merged["securitySchemes"]["OAuth2PasswordBearer"]["description"] = texts.SECURITY
    return merged


def _with_used(components: Document, paths: Document) -> Document:
    """With what the paths refer to, directly or by way of an answer."""

    def used(kind: str, *nodes: Any) -> list[str]:
        prefix = f"#/components/{kind}/"
        found = {reference for node in nodes for reference in _references(node)}
        return sorted(each.removeprefix(prefix) for each in found if each.startswith(prefix))

    responses = {name: answer_component(name) for name in used("responses", paths)}
    made: Document = {
        "responses": responses,
        "parameters": {name: PARAMETERS[name] for name in used("parameters", paths)},
        "headers": {name: header_component(name) for name in used("headers", paths, responses)},
        "examples": {
            name: example_component(name) if name in BY_CODE else _example(BY_NAME[name])
            for name in used("examples", paths, responses)
        },
    }
    return {kind: dict(sorted(named.items())) for kind, named in sorted((components | made).items())}


def _example(example: Example) -> Document:
    return {"summary": example.description, "value": example.value}


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        node = [*node.values()]
    if isinstance(node, list):
        for each in node:
            yield from _references(each)


def _described(route: Forward | Dashboard | Events, documents: dict[str, Document]) -> tuple[Document, set[str]]:
    """An operation with what it answers when all goes well, and the codes of its other answers."""
    if isinstance(route, Events):
        return own.events(), own.EVENTS_CODES
    if isinstance(route, Dashboard):
        return own.dashboard(route.path, documents), own.dashboard_codes(route.path, documents) | _UPSTREAM
    operation = _operation(route, documents)
    return forwarded(route, operation), codes_of(operation) | _UPSTREAM


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
    except KeyError as unknown:
        sys.exit(f"a service has {unknown}, which shop_openapi does not know; describe it there")
    if not arguments.check:
        SNAPSHOT.write_text(text)
    elif not SNAPSHOT.exists() or SNAPSHOT.read_text() != text:
        sys.exit(f"{SNAPSHOT.name} is not what the services' code says; run `make openapi`")


if __name__ == "__main__":
    main()
