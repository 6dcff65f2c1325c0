"""Selectors, and constants that are said once elsewhere."""

from typing import Any

import pytest

import shop_common.service
import shop_orders.worker
import shop_users.worker
from shop_cluster.state import ROOT
from shop_common.kafka.topics import GROUPS
from shop_k8s.addresses import service_name
from shop_k8s.custom import closed
from shop_k8s.environment import SETTINGS, Told, complaints
from shop_k8s.model import selects
from shop_k8s.policies.rollout import JOB_STAGE_SECONDS


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_selectors(selector: dict[str, Any] | None, *, fits: bool) -> None:
    assert selects(selector, {"a": "1"}) is fits


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("users", "users"),
        ("kafka.shop.svc", "kafka"),
        ("mongo-rs0.shop.svc.cluster.local", "mongo-rs0"),
        ("jaeger.tracing.svc", None),
        ("smtp.example.com", None),
        ("127.0.0.1", None),
        ("localhost", None),
    ],
)
def test_which_service_a_host_is(host: str, service: str | None) -> None:
    assert service_name(host) == service


def test_constants_are_those_of_the_code() -> None:
    assert {shop_users.worker.ORDERS_GROUP, shop_users.worker.MAIL_GROUP, shop_orders.worker.GROUP} == set(GROUPS)
    stop, cancel = shop_common.service._JOB_STOP_SECONDS, shop_common.service._JOB_CANCEL_SECONDS
    assert stop + cancel == JOB_STAGE_SECONDS


def test_each_service_has_its_settings_listed() -> None:
    there = {
        f"{path.parts[-2]}.{path.stem}"
        for path in ROOT.glob("services/*/src/*/*.py")
        if "load_settings(" in path.read_text()
    }
    assert there - {module for module, found in SETTINGS.items() if found} == set()


def test_jaegers_configuration_is_the_same_in_compose() -> None:
    elsewhere = ROOT / "deploy" / "k8s" / "components" / "jaeger" / "server" / "config.yaml"
    assert elsewhere.read_text() == (ROOT / "deploy" / "docker" / "jaeger.yaml").read_text()


def test_a_process_is_told_what_it_lacks() -> None:
    process = Told("x", "shop_orders.indexes", (("ORDERS_MONGO__DATABASE", "orders"),), frozenset())
    assert [says for says in complaints(process) if "ORDERS_MONGO__URL" in says]
    complete = Told("x", "shop_orders.indexes", process.variables, frozenset({"orders_mongo__url"}))
    assert list(complaints(complete)) == []


def test_structural_schemas_are_closed_where_they_name_fields() -> None:
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string", "nullable": True}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {}},
            "metadata": {"type": "object"},
        },
    }
    found = closed(schema)
    assert found["additionalProperties"] is False
    assert found["properties"]["spec"]["additionalProperties"] is False
    assert found["properties"]["spec"]["properties"]["a"]["type"] == ["string", "null"]
    assert "additionalProperties" not in found["properties"]["free"]
    assert "additionalProperties" not in found["properties"]["metadata"]
