"""An error says what it is to HTTP, or it is not a class."""

import inspect

import pytest

from shop_common import errors
from shop_common.errors import AppError, NotFound, StartupError, Unauthenticated, Unavailable


def test_a_class_without_a_code_of_its_own_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="NoSuchThing must define a code of its own"):

        class NoSuchThing(NotFound):
            pass


@pytest.mark.parametrize("missing", ["status", "title"])
def test_a_class_without_status_or_title_cannot_be_defined(missing: str) -> None:
    attributes = {"status": 418, "code": "teapot", "title": "Teapot"}
    del attributes[missing]
    with pytest.raises(TypeError, match=f"Teapot must define {missing}"):
        type("Teapot", (AppError,), attributes)


def test_a_derived_class_keeps_the_status() -> None:
    class OrderUnknown(NotFound):
        code = "order_unknown"

    assert (OrderUnknown.status, OrderUnknown.code, OrderUnknown.title) == (404, "order_unknown", "Not found")


def test_each_class_has_a_status_and_a_code_nobody_else_has() -> None:
    classes = [
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, AppError) and each is not AppError
    ]
    assert all(400 <= each.status <= 599 for each in classes)
    assert len({each.code for each in classes}) == len(classes)


def test_headers_belong_to_one_error() -> None:
    given = {"X-Cause": "a"}
    error = NotFound("gone", headers=given)
    error.headers["X-Cause"] = "b"
    assert given == {"X-Cause": "a"}


def test_some_errors_bring_the_header_http_asks_for() -> None:
    assert Unauthenticated("who?").headers == {"WWW-Authenticate": "Bearer"}
    assert Unauthenticated("who?", error="invalid_token").headers == {
        "WWW-Authenticate": 'Bearer error="invalid_token"'
    }
    assert Unavailable("busy", retry_after=7).headers == {"Retry-After": "7"}


def test_why_a_process_cannot_start_is_one_line() -> None:
    error = StartupError('role "x" does not exist\nHINT:  create it')
    assert str(error) == 'role "x" does not exist HINT: create it'
