"""Every error as RFC 9457 `application/problem+json`: the one renderer, and the handlers that lead to it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from shop_common.context import request_id
from shop_common.errors import AppError

PROBLEM_JSON = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MAX_FIELDS, _MAX_POINTER = 50, 200
_ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class FieldProblem(BaseModel):
    pointer: str = Field(examples=["#/email"])
    detail: str


class Problem(BaseModel):
    """The body of every error answer."""

    type: str = Field(default="about:blank", description="Always about:blank: `code` is what programs read")
    title: str
    status: int = Field(ge=400, le=599)
    code: str = Field(description="Stable and machine-readable", examples=["not_found"])
    detail: str
    request_id: str
    errors: list[FieldProblem] = Field(default_factory=list, description="The fields at fault")


def problem_response(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> Response:
    """Render one problem document."""
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id(),
        "errors": list(errors),
    }
    # ASCII, since what a client sent may be quoted, and half a surrogate pair has no UTF-8.
    content = json.dumps(body, separators=(",", ":"))
    return Response(content, status, headers={**_ALWAYS, **(headers or {})}, media_type=PROBLEM_JSON)


def app_error_response(error: AppError) -> Response:
    errors = [{"pointer": error.pointer, "detail": error.detail}] if error.pointer else []
    return problem_response(error.status, error.code, error.title, error.detail, headers=error.headers, errors=errors)


def install_problem_handlers(app: FastAPI) -> None:
    """Cover what services raise, what FastAPI's validation raises, and what the router raises (404, 405)."""

    async def on_app_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, AppError)  # noqa: S101 - the registration below says so
        return app_error_response(error)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - the registration below says so
        return _validation_failed(
            ("#" if item["type"] == "json_invalid" else _pointer(item["loc"]), str(item["msg"]))
            for item in error.errors()[:_MAX_FIELDS]
        )

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - the registration below says so
        if isinstance(error.__cause__, (RecursionError, ValueError)):
            # FastAPI's answer to JSON nested too deep, an integer too long or bytes that are no UTF-8.
            return _validation_failed([("#", "The body cannot be read")])
        phrase = HTTPStatus(error.status_code).phrase
        code = re.sub(r"\W+", "_", phrase.lower())
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_allowed(request))
        return problem_response(error.status_code, code, phrase, str(error.detail), headers=headers)

    app.add_exception_handler(AppError, on_app_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_exception)


def problems(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: every error class it can answer with, and the validation error all can."""
    by_status: dict[int, list[str]] = {422: ["validation_failed"]}
    for error in errors:
        by_status.setdefault(error.status, []).append(error.code)
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(dict.fromkeys(codes))}",
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, codes in sorted(by_status.items())
    }


def _validation_failed(fields: Iterable[tuple[str, str]]) -> Response:
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in fields]
    detail = "; ".join(f"{item['pointer']}: {item['detail']}" for item in errors[:3])
    return problem_response(422, "validation_failed", "Request not valid", detail, errors=errors)


def _pointer(location: Sequence[int | str]) -> str:
    """`("body", "items", 0, "sku")` → `#/items/0/sku`; a query, path or header value is named as such."""
    where, *path = [str(part).replace("~", "~0").replace("/", "~1") for part in location] or ["body"]
    prefix = "#" if where == "body" else f"#{where}"
    return "/".join([prefix, *path])[:_MAX_POINTER]  # an unknown field's name is the client's


def _allowed(request: Request) -> list[str]:
    """What the path takes; the router names only the methods of the first route that has it."""
    routes = request.app.router.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
