"""kubeconform and kube-score are heard: each finds what was broken for it."""

from collections.abc import Callable

import pytest
import yaml

from shop_cluster import go
from shop_k8s import tools
from shop_k8s.builds import Manifest
from shop_k8s.custom import fetch_definitions, validate_custom
from shop_k8s.model import Build
from shop_k8s.schemas import distinct
from shop_k8s.score import score

pytestmark = pytest.mark.timeout(900)  # the first time, they are compiled


def test_kubeconform_finds_a_field_that_a_custom_resource_does_not_have(own_copy: Callable[[str], Build]) -> None:
    broken = own_copy("production")
    scaler = broken.find("ScaledObject", "users-worker")
    assert scaler is not None
    scaler["spec"]["maxReplicas"] = 12
    result = validate_custom(go.build(tools.KUBECONFORM), fetch_definitions(), distinct([broken]))
    assert [(failure.where, failure.builds) for failure in result.failures] == [
        ("ScaledObject/users-worker", ("production",))
    ]
    assert "maxReplicas" in result.failures[0].says
    assert {kind.partition(" ")[0] for kind in result.left_out} == {"Kafka", "KafkaNodePool", "KafkaTopic"}
    assert result.validated > 5


def test_kube_score_finds_a_writable_root_file_system(own_copy: Callable[[str], Build]) -> None:
    broken = own_copy("production")
    users = broken.find("Deployment", "users")
    assert users is not None
    users["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    found = score(go.build(tools.KUBE_SCORE), [Manifest("production", yaml.safe_dump_all(broken.objects))])
    assert [failure.where for failure in found] == ["Deployment/users"]
    assert "container-security-context" in found[0].says
