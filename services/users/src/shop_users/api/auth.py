"""Routes about sessions and the keys that check their tokens."""

from typing import Annotated

from fastapi import APIRouter, Form, Response

from shop_users.api.conventions import AppResources, answers
from shop_users.errors import InvalidCredentials, InvalidRefreshToken, PasswordsBusy
from shop_users.models import TokenPair
from shop_users.schemas import KeySet, LoginForm, RefreshRequest, TokenPairOut

router = APIRouter(tags=["sessions"])

_JWKS_CACHE = "public, max-age=300"
"""Well below the time for which a new key is published before it signs."""


@router.post(
    "/v1/auth/token",
    operation_id="log_in",
    response_model=TokenPairOut,
    responses=answers(InvalidCredentials, PasswordsBusy),
)
async def log_in(resources: AppResources, form: Annotated[LoginForm, Form()]) -> Response:
    """Exchange a password for an access token of 15 minutes and a refresh token."""
    return _pair_response(await resources.sessions.log_in(form.username, form.password))


@router.post(
    "/v1/auth/refresh",
    operation_id="refresh_token",
    response_model=TokenPairOut,
    responses=answers(InvalidRefreshToken),
)
async def refresh_token(resources: AppResources, body: RefreshRequest) -> Response:
    """Exchange a refresh token for a new pair. Using one twice ends the session."""
    return _pair_response(await resources.sessions.refresh(body.refresh_token))


@router.post("/v1/auth/logout", operation_id="log_out", status_code=204, responses=answers(InvalidRefreshToken))
async def log_out(resources: AppResources, body: RefreshRequest) -> Response:
    """End the session of a refresh token; ending one that has ended is no error."""
    await resources.sessions.log_out(body.refresh_token)
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


@router.get("/.well-known/jwks.json", operation_id="get_jwks", response_model=KeySet, responses=answers())
async def get_jwks(resources: AppResources) -> Response:
    """The public keys that check access tokens."""
    keys = KeySet.model_validate(await resources.keys.jwks())
    return Response(keys.model_dump_json(), headers={"Cache-Control": _JWKS_CACHE}, media_type="application/json")


def _pair_response(pair: TokenPair) -> Response:
    body = TokenPairOut.model_validate(pair)
    return Response(body.model_dump_json(), headers={"Cache-Control": "no-store"}, media_type="application/json")
