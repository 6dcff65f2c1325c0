"""The gateway's HTTP process."""

import json
from functools import cache, partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from shop_common.service import run_api, service_app
from shop_common.settings import load_settings
from shop_gateway.api import PUBLIC
from shop_gateway.at_once import AtOnce
from shop_gateway.compression import LEAST_BYTES, LEVEL
from shop_gateway.cors import Cors
from shop_gateway.edge import Edge
from shop_gateway.resources import open_resources
from shop_gateway.routing import Shortcut, create_routes
from shop_gateway.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or load_settings(Settings)
    routes = create_routes()
    app = service_app(
        "gateway",
        settings,
        open_resources,
        at_once=partial(AtOnce, settings=settings),
        middleware=(
            Middleware(Edge, trusted_proxies=settings.trusted_proxies, public=PUBLIC),
            Middleware(Shortcut, routes),
            Middleware(GZipMiddleware, LEAST_BYTES, LEVEL),
        ),
    )
    app.router.routes.extend(routes)
    if settings.cors.origins:
        app.add_middleware(Cors, cors=settings.cors)
    app.openapi = _merged_document  # type: ignore[method-assign] # FastAPI's documented way
    return app


@cache
def _merged_document() -> dict[str, Any]:
    """What `tools/openapi/merge.py` made of all three services' documents."""
    document: dict[str, Any] = json.loads((files("shop_gateway") / "openapi.json").read_bytes())
    return document


if __name__ == "__main__":
    run_api("shop_gateway.app:create_app", load_settings(Settings))
