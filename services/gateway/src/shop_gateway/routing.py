"""The table as ASGI applications, found by method and path without asking each of them."""

import re
from collections import defaultdict
from collections.abc import Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shop_common.errors import AppError
from shop_common.problems import app_error_response
from shop_gateway.api import ROUTES, WITHOUT_BODY, Dashboard, Events, Forward
from shop_gateway.compression import encoded


class Endpoint:
    """One route of the table."""

    def __init__(self, route: Forward | Dashboard | Events) -> None:
        self.path = route.path
        self._handle = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self  # its path is what metrics and traces call it
        if isinstance(self._handle, Events):
            await self._handle.stream(scope, send)
            return
        status, headers, body = await self._handle(scope, receive)
        accepted = next((value for name, value in scope["headers"] if name == b"accept-encoding"), b"")
        body = await encoded(headers, body, accepted.decode("latin-1"))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        if status not in WITHOUT_BODY:
            raw.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def create_routes() -> list[Route]:
    """The table as Starlette's router takes it: exactly the methods named, so no HEAD beside each GET."""
    routes = []
    for entry in ROUTES:
        route = Route(entry.path, Endpoint(entry), methods=[entry.method])
        route.methods = {entry.method}
        # Starlette ends it with a `$`, which matches before a line feed at the end, too.
        route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
        routes.append(route)
    return routes


class Shortcut:
    """Straight to the table's routes, past what the router goes through for one of them and none of them needs.

    Whatever else is asked for is left to the router: what is found under another method, or not at all.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._fixed: dict[tuple[str, str], Route] = {}
        self._others: defaultdict[str, list[Route]] = defaultdict(list)
        for route in routes:
            for method in route.methods or ():
                if route.param_convertors:
                    self._others[method].append(route)
                else:
                    self._fixed[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._find(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        try:
            await route.endpoint(scope, receive, send)
        except AppError as error:
            await app_error_response(error)(scope, receive, send)

    def _find(self, scope: Scope) -> Route | None:
        method, path = scope["method"], scope["path"]
        if route := self._fixed.get((method, path)):
            scope["path_params"] = {}
            return route
        for route in self._others.get(method, ()):
            if found := route.path_regex.match(path):
                scope["path_params"] = found.groupdict()
                return route
        return None
