"""Every error as RFC 9457 `application/problem+json`: the one renderer, and the handlers that lead to it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from shop_common.context import request_id
from shop_common.errors import AppError

PROBLEM_JSON = "application/problem+json"


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
    return Response(to_json(body), status, headers=dict(headers or {}), media_type=PROBLEM_JSON)


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
        errors = [
            {"pointer": "#" if item["type"] == "json_invalid" else _pointer(item["loc"]), "detail": str(item["msg"])}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['pointer']}: {item['detail']}" for item in errors[:3])
        return problem_response(422, "validation_failed", "Request not valid", detail, errors=errors[:50])

    async def on_http_exception(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - the registration below says so
        phrase = HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_").replace("-", "_")
        return problem_response(error.status_code, code, phrase, str(error.detail), headers=error.headers)

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


def _pointer(location: Sequence[int | str]) -> str:
    """`("body", "items", 0, "sku")` → `#/items/0/sku`; a query, path or header value is named as such."""
    where, *path = [str(part).replace("~", "~0").replace("/", "~1") for part in location] or ["body"]
    prefix = "#" if where == "body" else f"#{where}"
    return "/".join([prefix, *path])
