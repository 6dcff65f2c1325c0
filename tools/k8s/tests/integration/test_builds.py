"""What is committed passes: every combination, under every policy and every schema."""

import json

import pytest

from shop_k8s.model import Build
from shop_k8s.operators import is_custom
from shop_k8s.policy import examine
from shop_k8s.schemas import NEWEST, distinct, schema_folders, validate

pytestmark = pytest.mark.timeout(900)  # the first time, kustomize is compiled


def test_no_policy_complains(builds: dict[str, Build]) -> None:
    assert [str(failure) for failure in examine(builds.values())] == []


def test_the_schemas_of_three_versions_agree(builds: dict[str, Build]) -> None:
    assert len(schema_folders()) == NEWEST
    assert [str(failure) for failure in validate(distinct(builds.values()))] == []


def test_a_schema_notices_a_typing_mistake_and_a_wrong_type(builds: dict[str, Build]) -> None:
    found = json.loads(json.dumps(builds["local"].find("Deployment", "users")))
    found["spec"]["replica"] = 2
    found["spec"]["minReadySeconds"] = "soon"
    says = " ".join(str(failure) for failure in validate(distinct([Build("broken", [found])])))
    assert "replica" in says
    assert "minReadySeconds" in says


def test_a_kind_without_a_schema_is_a_failure_unless_an_operator_brings_it(builds: dict[str, Build]) -> None:
    found = {"apiVersion": "apps/v9", "kind": "Deployment", "metadata": {"name": "x"}}
    assert len(validate(distinct([Build("broken", [found])]))) == NEWEST
    assert {ref["apiVersion"].partition("/")[0] for ref, _ in distinct(builds.values()) if is_custom(ref)} >= {
        "keda.sh",
        "kafka.strimzi.io",
    }
