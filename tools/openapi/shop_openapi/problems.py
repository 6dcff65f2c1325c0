"""Every error that a client can meet: an example by code, as the renderer makes it, and the answers that list codes."""

import inspect
import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Final

from shop_common.context import request_scope
from shop_common.cursors import BadCursor
from shop_common.errors import (
    AppError,
    BadRequest,
    DeadlineExceeded,
    Forbidden,
    PayloadTooLarge,
    PreconditionFailed,
    PreconditionRequired,
    Unauthenticated,
    Unavailable,
)
from shop_common.problems import PROBLEM_JSON, app_error_response
from shop_common.request import BodyTimeout, HeadersTooLarge
from shop_gateway import errors as gateway
from shop_gateway.headers import TO_CLIENT
from shop_openapi.examples import REQUEST_ID, example_references
from shop_openapi.fields import Document, fields_of
from shop_orders import errors as orders
from shop_users import errors as users


class HeadTimeout(AppError):
    """What the server itself answers, and hangs up."""

    status, code, title = 408, "head_timeout", "Head not received in time"


class ValidationFailed(AppError):
    """Which fields, and why, is in `errors`."""

    status, code, title = 422, "validation_failed", "Request not valid"


_ERRORS: Final = (
    BadCursor("This cursor was not issued here", pointer="#query/cursor"),
    BadRequest("X-Deadline-Ms must be whole milliseconds", pointer="#header/X-Deadline-Ms"),
    BodyTimeout("The body must arrive within 10 s"),
    DeadlineExceeded("The request was not done before its deadline"),
    Forbidden("Only administrators may do this"),
    HeadTimeout("The request's head did not arrive in time"),
    HeadersTooLarge("Address and headers together may have 16384 bytes"),
    PayloadTooLarge("A body may have 262144 bytes"),
    PreconditionFailed("The current version is 3, not 2; read it again", headers={"ETag": '"3"'}),
    PreconditionRequired("Send If-Match with the ETag of the version you want to change"),
    Unauthenticated("The token has expired", error="invalid_token"),
    Unavailable("A backend does not answer; try again shortly"),
    ValidationFailed("Must be a UUID with hyphens", pointer="#path/user_id"),
    gateway.CircuitOpen("orders has failed too often to be asked right now", headers={"Retry-After": "5"}),
    gateway.RateLimited("Quota spent: default; the next request may come in 1 s", headers={"Retry-After": "1"}),
    gateway.TooManyStreams("Too many streams are open; close one, or try again later"),
    gateway.UpstreamBusy("orders has as much to do as it can", headers={"Retry-After": "1"}),
    gateway.UpstreamDeadline("orders did not answer in time"),
    gateway.UpstreamFailed("The section stats failed: users cannot be reached"),
    gateway.UpstreamMalformed("orders cannot be understood: its answer is not JSON"),
    gateway.UpstreamUnreachable("orders cannot be reached"),
    orders.IdempotencyKeyMissing("Send an Idempotency-Key of your own choice, so that a retry is no second order"),
    orders.IdempotencyKeyNotValid("Idempotency-Key must be 1 to 255 visible ASCII characters"),
    orders.IdempotencyKeyReused("This key was sent with another order before; choose a new one"),
    orders.MixedCurrencies("All prices of an order must be in one currency", pointer="#/items"),
    orders.OrderContended("Others keep changing this order; try again shortly"),
    orders.OrderNotFound("There is no such order"),
    orders.OrderStateConflict("An order that is paid cannot become cancelled"),
    users.AccountDeactivated(),
    users.EmailTaken(),
    users.InvalidCredentials(),
    users.InvalidRefreshToken(),
    users.MergePatchRequired(),
    users.PasswordsBusy(),
    users.UserNotFound(),
    users.UsernameTaken(),
    users.WrongPassword(),
)
BY_CODE: Final[Mapping[str, AppError]] = {error.code: error for error in _ERRORS}


def codes_of(operation: Document) -> set[str]:
    """What a service says that it answers; without 422 where there is nothing in a request that could be wrong."""
    refusals = [each for status, each in operation["responses"].items() if int(status) >= HTTPStatus.BAD_REQUEST]
    codes = {code for refusal in refusals for code in refusal["description"].partition(": ")[2].split(", ")}
    located = {parameter["in"] for parameter in operation.get("parameters", [])}
    return codes if "requestBody" in operation or located & {"path", "query"} else codes - {ValidationFailed.code}


def answers(codes: Collection[str]) -> Document:
    """References by status to `answer_components`, named by the codes that each of them lists."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(BY_CODE[code].status, []).append(code)
    return {str(status): {"$ref": f"#/components/responses/{'.'.join(listed)}"} for status, listed in by_status.items()}


def answer_component(name: str) -> Document:
    errors = [BY_CODE[code] for code in name.split(".")]
    titles = {error.title: [each.code for each in errors if each.title == error.title] for error in errors}
    given = [{name for name in error.headers if name.lower() in TO_CLIENT.values()} for error in errors]
    own = {header: all(header in each for each in given) for header in sorted(set().union(*given))}
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": example_references(name.split("."))}
    return {
        "description": "; ".join(f"{title}: `{'`, `'.join(codes)}`" for title, codes in titles.items()),
        "headers": fields_of(errors[0].status, own),
        "content": {PROBLEM_JSON: problem},
    }


def example_component(code: str) -> Document:
    error = BY_CODE[code]
    with request_scope(REQUEST_ID):
        value = json.loads(bytes(app_error_response(error).body))
    meaning = type(error).__doc__
    described = {"description": inspect.cleandoc(meaning)} if meaning else {}
    return {"summary": error.title, **described, "value": value}
