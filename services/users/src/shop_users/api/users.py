"""Routes about users."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Query, Response

from shop_common.cursors import BadCursor
from shop_common.errors import Forbidden, Unauthenticated
from shop_common.preconditions import IF_MATCH, ExpectedVersion, IfNoneMatch, etag
from shop_common.tokens import CurrentAdmin, CurrentPrincipal
from shop_users.api.conventions import (
    ETAG_HEADER,
    MERGE_PATCH,
    READ,
    AppResources,
    answers,
    change_answers,
    header,
    merge_patch_only,
    read_response,
    user_response,
)
from shop_users.errors import (
    AccountDeactivated,
    EmailTaken,
    MergePatchRequired,
    PasswordsBusy,
    UsernameTaken,
    UserNotFound,
    WrongPassword,
)
from shop_users.schemas import PasswordChange, Registration, StatisticsOut, UserOut, UserPage, UserPatch

router = APIRouter(prefix="/v1", tags=["users"])


@router.post(
    "/users",
    operation_id="register_user",
    status_code=201,
    response_model=UserOut,
    responses=answers(EmailTaken, UsernameTaken, PasswordsBusy)
    | {201: {"headers": ETAG_HEADER | {"Location": header("The user's path")}}},
)
async def register_user(resources: AppResources, registration: Registration) -> Response:
    """Register a customer. Email address and username are unique, whatever their case."""
    user = await resources.accounts.register(**registration.model_dump())
    return user_response(UserOut.model_validate(user), 201)


@router.get(
    "/users",
    operation_id="list_users",
    response_model=UserPage,
    responses=answers(Unauthenticated, Forbidden, BadCursor) | READ,
)
async def list_users(
    resources: AppResources,
    _: CurrentAdmin,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """All users, newest first; for administrators."""
    position = resources.cursors.decode(cursor, {})
    after = None if position is None else (position[0], UUID(position[1]))
    users, next_cursor = resources.cursors.page(await resources.accounts.newest(limit + 1, after), limit, {})
    items = [UserOut.model_validate(user) for user in users]
    return read_response(UserPage(items=items, next_cursor=next_cursor), if_none_match)


@router.get(
    "/me", operation_id="get_me", response_model=UserOut, responses=answers(Unauthenticated, UserNotFound) | READ
)
async def get_me(resources: AppResources, principal: CurrentPrincipal, if_none_match: IfNoneMatch = None) -> Response:
    """The user whom the token names."""
    return await get_user(resources, principal, UUID(principal.user_id), if_none_match)


@router.get(
    "/users/{user_id}",
    operation_id="get_user",
    response_model=UserOut,
    responses=answers(Unauthenticated, UserNotFound) | READ,
)
async def get_user(
    resources: AppResources, principal: CurrentPrincipal, user_id: UUID, if_none_match: IfNoneMatch = None
) -> Response:
    """Oneself, or anybody for an administrator; deactivated users too."""
    user = await resources.accounts.get(principal, user_id)
    return read_response(UserOut.model_validate(user), if_none_match, etag(user.version))


@router.patch(
    "/users/{user_id}",
    operation_id="change_user",
    response_model=UserOut,
    responses=change_answers(
        Unauthenticated, UserNotFound, EmailTaken, UsernameTaken, AccountDeactivated, MergePatchRequired
    )
    | {200: {"headers": ETAG_HEADER}},
    dependencies=[Depends(merge_patch_only)],
    openapi_extra={"parameters": [IF_MATCH]},
)
async def change_user(
    resources: AppResources,
    principal: CurrentPrincipal,
    user_id: UUID,
    expected: ExpectedVersion,
    patch: Annotated[UserPatch, Body(media_type=MERGE_PATCH)],
) -> Response:
    """Change email, username or full name. A patch that changes nothing makes no new version."""
    user = await resources.accounts.change(principal, user_id, expected, patch.model_dump(exclude_unset=True))
    return user_response(UserOut.model_validate(user))


@router.post(
    "/users/{user_id}/password",
    operation_id="change_password",
    status_code=204,
    responses=change_answers(Unauthenticated, UserNotFound, WrongPassword, AccountDeactivated, PasswordsBusy)
    | {204: {"headers": ETAG_HEADER}},
    openapi_extra={"parameters": [IF_MATCH]},
)
async def change_password(
    resources: AppResources,
    principal: CurrentPrincipal,
    user_id: UUID,
    expected: ExpectedVersion,
    change: PasswordChange,
) -> Response:
    """Set a new password. Ends all sessions: every refresh token of the user stops working."""
    user = await resources.accounts.change_password(
        principal, user_id, expected, current=change.current_password, new=change.new_password
    )
    return Response(status_code=204, headers={"ETag": etag(user.version)})


@router.delete(
    "/users/{user_id}",
    operation_id="deactivate_user",
    status_code=204,
    responses=change_answers(Unauthenticated, UserNotFound) | {204: {"headers": ETAG_HEADER}},
    openapi_extra={"parameters": [IF_MATCH]},
)
async def deactivate_user(
    resources: AppResources, principal: CurrentPrincipal, user_id: UUID, expected: ExpectedVersion
) -> Response:
    """Deactivate for good: no login, no changes, but still readable. Repeating it with the new ETag changes nothing."""
    user = await resources.accounts.deactivate(principal, user_id, expected)
    return Response(status_code=204, headers={"ETag": etag(user.version)})


@router.get(
    "/users/{user_id}/stats",
    operation_id="get_user_stats",
    response_model=StatisticsOut,
    responses=answers(Unauthenticated, UserNotFound) | READ,
)
async def get_user_stats(
    resources: AppResources, principal: CurrentPrincipal, user_id: UUID, if_none_match: IfNoneMatch = None
) -> Response:
    """Orders and money spent, as far as the events have arrived: usually within a second."""
    statistics = await resources.statistics.get(principal, user_id)
    response = read_response(StatisticsOut.model_validate(statistics), if_none_match)
    if statistics.projected_offset is not None:  # for the gateway, which passes it on to nobody: not documented
        response.headers["Projected-Offset"] = str(statistics.projected_offset)
    return response
