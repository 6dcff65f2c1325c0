"""The merged document is what the three services' code says now, and whole."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from shop_common.tokens import Principal
from shop_gateway import app
from shop_gateway.api import PUBLIC, ROUTES
from shop_gateway.changes import RecentChanges
from shop_gateway.models import SectionOutcome, SectionProblem
from shop_gateway.schemas import SectionState, cache_status, dashboard_body, dashboard_etag, section_status
from shop_gateway.settings import StreamSettings
from shop_gateway.streams import Streams

MERGE = Path(__file__).parents[4] / "tools/openapi/merge.py"
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((Path(app.__file__).parent / "openapi.json").read_text())


@pytest.fixture(scope="module")
def operations(document: Any) -> Any:
    """By operationId: method, path, operation."""
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def look_up(document: Any, node: Any) -> Any:
    """The node, or what its reference leads to."""
    if "$ref" in node:
        reference, node = node["$ref"], document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    return node


def answers(document: Any, operations: Any) -> Iterator[tuple[str, str, Any]]:
    for name, (_, _, operation) in operations.items():
        for status, answer in operation["responses"].items():
            yield name, status, look_up(document, answer)


def mistakes(document: Any, schema: Any, value: Any) -> list[str]:
    validator = Draft202012Validator({**schema, "components": document["components"]}, validate_formats=True)
    return [str(error) for error in validator.iter_errors(value)]


def test_the_snapshot_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, MERGE, "--check"], capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr


def test_it_has_the_table_and_nothing_else(operations: Any) -> None:
    described = {(method, path) for method, path, _ in operations.values()}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len(operations) == len(ROUTES)


def test_every_operation_says_what_it_is(document: Any, operations: Any) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for name, (method, path, operation) in operations.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
        assert operation["summary"]
        assert operation["description"]
        assert len(operation["tags"]) == 1
        tags -= set(operation["tags"])
        assert operation["security"] == ([] if (method, path) in PUBLIC else [{"OAuth2PasswordBearer": []}])
        for parameter in operation["parameters"]:
            assert look_up(document, parameter)["name"]
    assert tags == set(), "described, and of no operation"


def test_every_operation_tells_what_the_gateway_may_answer(document: Any, operations: Any) -> None:
    everywhere = {"400", "408", "413", "429", "431", "503", "504"}
    for name, (_, _, operation) in operations.items():
        passes_on = set() if name == "stream_my_events" else {"502"}
        assert everywhere | passes_on <= set(operation["responses"])
    for _, status, answer in answers(document, operations):
        counted = status not in {"408", "413", "431"}
        assert ("RateLimit" in answer["headers"]) == ("RateLimit-Policy" in answer["headers"]) == counted
        assert "X-Request-Id" in answer["headers"]
        assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"})


def test_what_shows_one_user_or_order_gives_a_token_for_reading_it_again(document: Any, operations: Any) -> None:
    given = {
        (name, status)
        for name, status, answer in answers(document, operations)
        if "Consistency-Token" in answer["headers"]
    }
    reads = {(name, status) for name in ("get_me", "get_user", "get_order") for status in ("200", "304")}
    moves = {("pay_order", "200"), ("cancel_order", "200"), ("change_user", "200")}
    assert given == reads | moves | {("register_user", "201"), ("place_order", "201")} | {
        ("change_password", "204"),
        ("deactivate_user", "204"),
    }


def test_every_reference_leads_somewhere(document: Any) -> None:
    for reference in set(references(document)):
        assert look_up(document, {"$ref": reference})


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def test_every_body_has_an_example_that_its_schema_takes(document: Any, operations: Any) -> None:
    bodies = [
        ("the request of", name, op["requestBody"]) for name, (_, _, op) in operations.items() if "requestBody" in op
    ]
    bodies += [(name, status, answer) for name, status, answer in answers(document, operations)]
    for name, status, body in bodies:
        assert ("content" in body) == (status not in {"204", "304"}), (name, status)
        for media_type, media in body.get("content", {}).items():
            assert media["examples"], (name, status)
            for example in media["examples"].values():
                value = look_up(document, example)["value"]
                assert mistakes(document, media["schema"], value) == [], (name, status, media_type)


def test_every_problem_is_of_the_status_it_is_an_example_for(document: Any, operations: Any) -> None:
    for name, status, answer in answers(document, operations):
        if int(status) >= 400:
            assert set(answer["content"]) == {PROBLEM}
            for code, example in answer["content"][PROBLEM]["examples"].items():
                problem = look_up(document, example)["value"]
                assert (problem["status"], problem["code"]) == (int(status), code), (name, status)
                assert f"`{code}`" in answer["description"]


def test_every_header_and_parameter_has_an_example_that_its_schema_takes(document: Any) -> None:
    for kind in ("headers", "parameters"):
        for name, described in document["components"][kind].items():
            assert described["description"]
            assert mistakes(document, described["schema"], described["example"]) == [], name


def test_every_component_is_used(document: Any) -> None:
    used = set(references(document))
    for kind in ("examples", "headers", "parameters", "responses", "schemas"):
        assert {name for name in document["components"][kind] if f"#/components/{kind}/{name}" not in used} == set()


def test_the_dashboard_is_described_whole(document: Any) -> None:
    schema = document["components"]["schemas"]["Dashboard"]
    assert schema["required"] == ["user", "orders", "stats", "_sections"]
    assert schema["properties"]["_sections"]["required"] == ["user", "orders", "stats"]
    state = document["components"]["schemas"]["SectionState"]
    assert set(state["properties"]) == set(SectionState.model_fields)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("failed", [False, True])
def test_dashboards_are_as_described(document: Any, *, live: bool, failed: bool) -> None:
    examples = document["components"]["examples"]
    bodies = [json.dumps(examples[name]["value"]).encode() for name in ("UserOut", "OrderPage", "StatisticsOut")]
    problem = SectionProblem(504, "upstream_deadline", "users did not answer in time")
    sections = [
        SectionOutcome("user", 0.1, bodies[0], None, 1.0, "owner" if live else "memory"),
        SectionOutcome("orders", 0.1, bodies[1], problem if failed else None, 1.0, "memory", "stale"),
        SectionOutcome("stats", 0.1, None, problem, state="failed")
        if failed
        else SectionOutcome("stats", 0.1, bodies[2], None, 1.0),
    ]
    body = json.loads(dashboard_body(sections))
    assert mistakes(document, {"$ref": "#/components/schemas/Dashboard"}, body) == []
    fields = {
        "Section-Status": section_status(sections),
        "Cache-Status": cache_status(sections, live=live),
        "ETag": dashboard_etag(sections),
    }
    for name, value in fields.items():
        assert mistakes(document, document["components"]["headers"][name]["schema"], value) == []


async def test_streams_send_what_is_described(document: Any) -> None:
    principal = Principal("0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001", "customer", 2**33)

    async def has_statistics(_: str, __: str) -> bool:
        return True

    streams = Streams(StreamSettings(), RecentChanges(), has_statistics)
    connection = Sink()
    for last_event_id in ("", "17.42"):
        stream, greeting = streams.open(connection, principal, "Bearer a.b.c", last_event_id)  # type: ignore[arg-type] # as far as it is used
        connection.send_chunk(greeting)
        stream.change(("orders", "stats"), "17.43+")
        stream.begin()
        stream.end("shutdown")
    events = [parsed(message) for message in connection.sent.split("\n\n")[:-1]]
    assert [event["event"] for event in events] == [
        *("ready", "dashboard_changed", "end"),
        *("dashboard_changed", "dashboard_changed", "end"),
    ]
    schema = document["components"]["schemas"]["DashboardEvent"]
    data = {each["properties"]["event"]["const"]: each["properties"]["data"] for each in schema["oneOf"]}
    for event in events:
        assert mistakes(document, schema, event) == []
        assert mistakes(document, data[event["event"]]["contentSchema"], json.loads(event["data"])) == []
    for reason in ("revoked", "token_expired"):
        assert mistakes(document, data["end"]["contentSchema"], {"reason": reason}) == []
    assert mistakes(document, data["end"]["contentSchema"], {"reason": "client_left"})


class Sink:
    """A connection that is never slow."""

    is_writable, is_closing = True, False

    def __init__(self) -> None:
        self.sent = ""

    def hand_over(self, listener: Any) -> None: ...

    def send_chunk(self, data: bytes) -> None:
        self.sent += data.decode()

    def end_chunks(self) -> None: ...


def parsed(message: str) -> dict[str, Any]:
    lines = (line.partition(": ") for line in message.split("\n"))
    return {name: int(value) if name == "retry" else value for name, _, value in lines}
