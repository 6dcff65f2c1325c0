"""What the routes have in common: resources, conditional answers, documented problems."""

import hashlib
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import BaseModel

from shop_common.errors import AppError, PreconditionFailed, PreconditionRequired
from shop_common.preconditions import etag, is_unchanged
from shop_common.problems import problems
from shop_common.request import ANY_REQUEST
from shop_users.errors import MergePatchRequired
from shop_users.resources import Resources
from shop_users.schemas import UserOut

MERGE_PATCH = "application/merge-patch+json"


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


AppResources = Annotated[Resources, Depends(_resources)]


async def merge_patch_only(request: Request) -> None:
    """Dependency of a route that takes merge patches: 415 for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MERGE_PATCH:
        raise MergePatchRequired


def answers(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: its own problems, and those that any route can end in."""
    return problems(*errors, *ANY_REQUEST)


def change_answers(*errors: type[AppError]) -> dict[int | str, dict[str, Any]]:
    return answers(*errors, PreconditionFailed, PreconditionRequired)


def header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string"}}


ETAG_HEADER = {"ETag": header("The version, in quotes")}
READ: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": header("Changes when the answer does")}},
    304: {"description": "Not modified", "headers": {"ETag": header("As in If-None-Match")}},
}


def user_response(user: UserOut, status: int = 200) -> Response:
    """The answer to a change."""
    headers = {"ETag": etag(user.version), "Cache-Control": "no-store"}
    if status == 201:  # noqa: PLR2004 - Created
        headers["Location"] = f"/v1/users/{user.id}"
    return Response(user.model_dump_json(), status, headers, "application/json")


def read_response(body: BaseModel, if_none_match: str | None, tag: str | None = None) -> Response:
    """200, or 304 where the client has it already; without a `tag` one is made of the content."""
    content = body.model_dump_json().encode()
    tag = tag or f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    if is_unchanged(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")
