"""The builds, made once for a session by the real kustomize."""

import json
from collections.abc import Callable

import pytest

import shop_k8s.policies  # noqa: F401 - registers them
from shop_cluster import go
from shop_cluster.failures import ClusterError
from shop_k8s import tools
from shop_k8s.builds import build_failures, build_manifests, copied_tree, parse
from shop_k8s.model import Build


@pytest.fixture(scope="session")
def builds() -> dict[str, Build]:
    try:
        kustomize = go.build(tools.KUSTOMIZE)
    except ClusterError as error:
        pytest.fail(f"{error}; {error.remedy}")
    with copied_tree() as tree:
        manifests = build_manifests(kustomize, tree)
    assert [str(failure) for failure in build_failures(manifests)] == []
    return {manifest.name: parse(manifest) for manifest in manifests}


@pytest.fixture
def own_copy(builds: dict[str, Build]) -> Callable[[str], Build]:
    """A build to break: by its name, or the first combination that has a component of that name."""

    def copy(wanted: str) -> Build:
        name = wanted if wanted in builds else next(name for name in builds if wanted in name.split("+"))
        return Build(name, json.loads(json.dumps(builds[name].objects, default=str)))

    return copy
