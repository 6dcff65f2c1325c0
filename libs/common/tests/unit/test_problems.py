"""Every error is a problem document: what services raise, what validation finds, what the router refuses."""

import json
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, FastAPI, Header, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from shop_common.errors import BadRequest, Conflict, NotFound, TooManyRequests
from shop_common.problems import Problem, problem_response, problems
from shop_common.testing import open_app_client

JSON = {"Content-Type": "application/json"}
router = APIRouter()


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sku: str = Field(min_length=2)


class Basket(BaseModel):
    items: list[Item]


@router.post("/baskets")
async def place(basket: Basket, limit: int = 1, x_shop: Annotated[int, Header()] = 0) -> None: ...


@router.post("/anything")
async def anything(value: Annotated[Any, Body()]) -> str:
    return type(value).__name__


@router.get("/things/{number}")
async def read(number: int) -> int:
    return number


@router.patch("/things/{number}")
async def change(number: int) -> int:
    return number


@router.get("/conflict")
async def conflict() -> None:
    raise Conflict("It has moved on", headers={"X-Version": "7"}, pointer="#/version")


@router.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})


@router.get("/quoting")
async def quoting() -> None:
    raise NotFound("\ud800 is half a character")


@pytest.fixture
async def client(build_app: Any) -> Any:
    app: FastAPI = build_app(router)
    async with open_app_client(app) as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> Problem:
    """The document, checked for what all have in common."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = Problem.model_validate_json(answer.text)
    assert (document.type, document.status, document.code) == ("about:blank", status, code)
    assert document.request_id == answer.headers["x-request-id"] != ""
    return document


def pointers(document: Problem) -> list[str]:
    return [field.pointer for field in document.errors]


async def test_an_unknown_path_is_404(client: httpx.AsyncClient) -> None:
    problem(await client.get("/nowhere"), 404, "not_found")


async def test_a_trailing_slash_is_another_path_not_a_redirect(client: httpx.AsyncClient) -> None:
    problem(await client.get("/things/1/"), 404, "not_found")


async def test_a_wrong_method_is_405_and_names_all_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/things/1")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, PATCH"


async def test_what_a_service_raises_keeps_headers_and_pointer(client: httpx.AsyncClient) -> None:
    answer = await client.get("/conflict")
    document = problem(answer, 409, "conflict")
    assert answer.headers["x-version"] == "7"
    assert document.detail == "It has moved on"
    assert pointers(document) == ["#/version"]


async def test_what_a_framework_raises_keeps_status_and_headers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/teapot")
    assert problem(answer, 418, "i_m_a_teapot").detail == "short and stout"
    assert answer.headers["x-spout"] == "yes"


async def test_validation_points_at_each_field(client: httpx.AsyncClient) -> None:
    body = {"items": [{"sku": "ok"}, {"sku": "x", "a/b~c": 1}]}
    answer = await client.post("/baskets?limit=many", json=body, headers={"X-Shop": "here"})
    document = problem(answer, 422, "validation_failed")
    assert pointers(document) == ["#query/limit", "#header/x-shop", "#/items/1/sku", "#/items/1/a~1b~0c"]
    assert document.detail.startswith("#query/limit: ")


async def test_a_path_parameter_is_named_as_such(client: httpx.AsyncClient) -> None:
    assert pointers(problem(await client.get("/things/one"), 422, "validation_failed")) == ["#path/number"]


async def test_an_empty_body_points_at_the_whole(client: httpx.AsyncClient) -> None:
    assert pointers(problem(await client.post("/baskets"), 422, "validation_failed")) == ["#"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"items":',
        b"\xff\xfe\x00{",
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b"1" * 5_000,
        b"{" + b'"k":1,' * 3 + b"}",
    ],
    ids=["cut off", "no UTF-8", "nested lists", "nested objects", "an integer too long", "a comma too many"],
)
async def test_a_body_that_cannot_be_read_is_422(client: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/baskets", "/anything"):
        answer = await client.post(path, content=body, headers=JSON)
        assert pointers(problem(answer, 422, "validation_failed")) == ["#"]


async def test_json_under_another_content_type_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/baskets", content=b'{"items": []}', headers={"Content-Type": "text/plain"})
    problem(answer, 422, "validation_failed")


async def test_many_faults_and_long_names_make_no_long_answer(client: httpx.AsyncClient) -> None:
    body = {"items": [{"sku": "ok", "x" * 50_000: 1}, *[{} for _ in range(500)]]}
    document = problem(await client.post("/baskets", json=body), 422, "validation_failed")
    assert len(document.errors) == 50
    assert max(map(len, pointers(document))) == 200


async def test_half_a_surrogate_pair_can_be_quoted(client: httpx.AsyncClient) -> None:
    answer = await client.get("/quoting")
    assert json.loads(answer.content)["detail"] == "\ud800 is half a character"


async def test_lone_surrogates_in_a_body_are_refused_not_a_500(client: httpx.AsyncClient) -> None:
    for body in (b'{"items": [{"sku": "\\ud800\\ud800"}]}', b'{"items": [{"sku": "ok", "\\ud800": 1}]}'):
        problem(await client.post("/baskets", content=body, headers=JSON), 422, "validation_failed")


def test_the_responses_of_a_route_name_every_code_once() -> None:
    class Full(TooManyRequests):
        code = "full"

    documented = problems(NotFound, TooManyRequests, Full, Full)
    assert list(documented) == [404, 422, 429]
    assert documented[429]["description"] == "Too Many Requests: too_many_requests, full"
    assert documented[422]["description"].endswith(": validation_failed")
    assert set(documented[404]["content"]) == {"application/problem+json"}


def test_a_problem_outside_a_request_has_an_empty_request_id() -> None:
    response = problem_response(400, BadRequest.code, BadRequest.title, "No")
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": "Bad request",
        "status": 400,
        "code": "bad_request",
        "detail": "No",
        "request_id": "",
        "errors": [],
    }
