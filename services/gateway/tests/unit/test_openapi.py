"""The merged document is what the three services' code says now."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shop_gateway import app
from shop_gateway.api import ROUTES
from shop_gateway.schemas import SectionState

MERGE = Path(__file__).parents[4] / "tools/openapi/merge.py"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((Path(app.__file__).parent / "openapi.json").read_text())


def test_the_snapshot_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, MERGE, "--check"], capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr


def test_it_has_the_table_and_nothing_else(document: Any) -> None:
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert described == {(route.method, route.path) for route in ROUTES}


def test_every_operation_tells_what_the_gateway_may_answer(document: Any) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            assert {"400", "429", "502", "503", "504"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                assert {"RateLimit", "RateLimit-Policy"} <= set(response["headers"])
                assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})


def test_operations_have_names_of_their_own(document: Any) -> None:
    names = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere(document: Any) -> None:
    for reference in set(_references(document)):
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


def test_the_dashboard_is_described_whole(document: Any) -> None:
    for path in ("/v1/me/dashboard", "/v1/users/{user_id}/dashboard"):
        operation = document["paths"][path]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["required"] == ["user", "orders", "stats", "_sections"]
        assert schema["properties"]["_sections"]["required"] == ["user", "orders", "stats"]
    state = document["components"]["schemas"]["SectionState"]
    assert set(state["properties"]) == set(SectionState.model_fields)
