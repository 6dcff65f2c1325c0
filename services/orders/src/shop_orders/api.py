"""Orders over HTTP."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response, status

from shop_common.cursors import BadCursor
from shop_common.errors import PreconditionFailed, PreconditionRequired, Unauthenticated
from shop_common.preconditions import IF_MATCH, ExpectedVersion, IfNoneMatch, etag, is_unchanged
from shop_common.problems import problems
from shop_common.request import ANY_REQUEST
from shop_common.tokens import CurrentPrincipal
from shop_orders.errors import (
    IdempotencyKeyMissing,
    IdempotencyKeyNotValid,
    IdempotencyKeyReused,
    MixedCurrencies,
    OrderContended,
    OrderNotFound,
    OrderStateConflict,
    UserNotFound,
)
from shop_orders.models import Order
from shop_orders.schemas import ListQuery, OrderIn, OrderOut, OrderPage
from shop_orders.service import Done, OrderService

router = APIRouter(prefix="/v1/orders", tags=["orders"])

_KEY_HEADER: Final = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_ANY_REQUEST: Final = (*ANY_REQUEST, Unauthenticated)
_MOVE: Final = (
    *_ANY_REQUEST,
    IdempotencyKeyNotValid,
    OrderContended,
    OrderNotFound,
    OrderStateConflict,
    PreconditionFailed,
    PreconditionRequired,
)


def _orders(request: Request) -> OrderService:
    service: OrderService = request.app.state.resources.orders
    return service


def _given_key(request: Request) -> str | None:
    given = request.headers.getlist(_KEY_HEADER)
    if not given:
        return None
    key = ", ".join(given)  # so that two of them are no valid key
    if not _KEY.fullmatch(key):
        raise IdempotencyKeyNotValid("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key


def _required_key(key: Annotated[str | None, Depends(_given_key)]) -> str:
    if key is None:
        raise IdempotencyKeyMissing("Send an Idempotency-Key of your own choice, so that a retry is no second order")
    return key


Orders = Annotated[OrderService, Depends(_orders)]
GivenKey = Annotated[str | None, Depends(_given_key)]
RequiredKey = Annotated[str, Depends(_required_key)]


def _key_parameter(description: str, *, required: bool) -> dict[str, Any]:
    """Of the document only: its absence has an answer of its own (400), which no validation error is."""
    schema = {"type": "string", "pattern": r"^[!-~]{1,255}$"}
    return {"name": _KEY_HEADER, "in": "header", "required": required, "description": description, "schema": schema}


def _answer_headers(*names: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}, "required": name == "ETag"} for name in names}}


_ORDER_KEY: Final = _key_parameter("The same key and body: the same order", required=True)
_MOVE_KEY: Final = _key_parameter("Makes a retry answer like the first try", required=False)
_PERSONAL: Final = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
_MOVE_DOCUMENT: Final = {"parameters": [IF_MATCH, _MOVE_KEY]}


@router.post(
    "",
    operation_id="place_order",
    status_code=status.HTTP_201_CREATED,
    responses={
        **problems(
            *_ANY_REQUEST,
            IdempotencyKeyMissing,
            IdempotencyKeyNotValid,
            IdempotencyKeyReused,
            MixedCurrencies,
            OrderContended,
        ),
        201: _answer_headers("Location", "ETag", "Idempotency-Replayed"),
    },
    openapi_extra={"parameters": [_ORDER_KEY]},
)
async def place_order(
    orders: Orders, principal: CurrentPrincipal, key: RequiredKey, body: OrderIn, response: Response
) -> OrderOut:
    """Place an order for yourself: confirmed at once if you are known to be active, else pending or rejected."""
    done = await orders.place(principal, key, body.to_items())
    response.headers["Location"] = f"{router.prefix}/{done.order.id}"
    return _done(done, response)


@router.get("", operation_id="list_orders", responses=problems(*_ANY_REQUEST, BadCursor, UserNotFound))
async def list_orders(
    orders: Orders, principal: CurrentPrincipal, query: Annotated[ListQuery, Query()], response: Response
) -> OrderPage:
    """List orders, newest first: your own; an administrator sees one user's, or everybody's."""
    user_id = None if query.user_id is None else str(query.user_id)
    page = await orders.list_newest(principal, user_id, query.status, query.cursor, query.limit)
    response.headers.update(_PERSONAL)
    return OrderPage.model_validate(page)


@router.get(
    "/{order_id}",
    operation_id="get_order",
    response_model=OrderOut,
    responses={
        **problems(*_ANY_REQUEST, OrderNotFound),
        200: _answer_headers("ETag"),
        304: {"description": "You have the current version", **_answer_headers("ETag")},
    },
)
async def get_order(
    orders: Orders,
    principal: CurrentPrincipal,
    order_id: UUID,
    response: Response,
    if_none_match: IfNoneMatch = None,
) -> OrderOut | Response:
    """Read one of your orders."""
    order = await orders.get(principal, str(order_id))
    headers = _headers(order)
    if is_unchanged(if_none_match, headers["ETag"]):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    response.headers.update(headers)
    return OrderOut.model_validate(order)


@router.post(
    "/{order_id}/pay",
    operation_id="pay_order",
    responses={**problems(*_MOVE), 200: _answer_headers("ETag", "Idempotency-Replayed")},
    openapi_extra=_MOVE_DOCUMENT,
)
async def pay_order(
    *,
    orders: Orders,
    principal: CurrentPrincipal,
    order_id: UUID,
    version: ExpectedVersion,
    key: GivenKey,
    response: Response,
) -> OrderOut:
    """Pay a confirmed order."""
    return _done(await orders.pay(principal, str(order_id), version, key), response)


@router.post(
    "/{order_id}/cancel",
    operation_id="cancel_order",
    responses={**problems(*_MOVE), 200: _answer_headers("ETag", "Idempotency-Replayed")},
    openapi_extra=_MOVE_DOCUMENT,
)
async def cancel_order(
    *,
    orders: Orders,
    principal: CurrentPrincipal,
    order_id: UUID,
    version: ExpectedVersion,
    key: GivenKey,
    response: Response,
) -> OrderOut:
    """Cancel an order that is not paid."""
    return _done(await orders.cancel(principal, str(order_id), version, key), response)


def _done(done: Done, response: Response) -> OrderOut:
    response.headers.update(_headers(done.order))
    if done.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return OrderOut.model_validate(done.order)


def _headers(order: Order) -> Mapping[str, str]:
    return {"ETag": etag(order.version), **_PERSONAL}
