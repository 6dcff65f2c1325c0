"""What `make k8s-up` would run, and the secrets it makes."""

from pathlib import Path

import pytest

from shop_cluster.failures import ClusterError
from shop_k8s.model import Build
from shop_k8s.secrets import PASSWORDS, SIGNING_KEY, make_local_secrets
from shop_k8s.up import delivery, waits


def test_images_reach_the_nodes_in_the_way_of_their_cluster() -> None:
    images = ["shop-users:abc", "shop-orders:abc"]
    assert delivery("kind-shop", "", images) == [["kind", "load", "docker-image", *images, "--name", "shop"]]
    assert delivery("k3d-shop", "", images) == [["k3d", "image", "import", *images, "--cluster", "shop"]]
    assert delivery("kind-shop", "r.example.com", ["r.example.com/shop-users:abc"]) == [
        ["docker", "push", "r.example.com/shop-users:abc"]
    ]
    with pytest.raises(ClusterError, match="neither kind nor k3d") as unknown:
        delivery("production", "", images)
    assert "REGISTRY=" in unknown.value.remedy


def test_servers_are_waited_for_before_the_jobs_that_need_them() -> None:
    def found(kind: str, name: str) -> dict[str, object]:
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {}}

    kinds = {"users-migrate": "Job", "postgres": "StatefulSet", "redis": "Deployment"}
    said = [" ".join(command[3:-1]) for command in waits(Build("local", [found(k, n) for n, k in kinds.items()]))]
    assert said == [
        "rollout status statefulset/postgres",
        "rollout status deployment/redis",
        "wait --for=condition=Complete job/users-migrate",
    ]


def test_secrets_are_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    make_local_secrets(tmp_path)
    files = {name: (tmp_path / name).read_text() for name in (*PASSWORDS, SIGNING_KEY)}
    assert len(set(files.values())) == len(files)
    assert all(len(text) >= 32 for text in files.values())
    assert files[SIGNING_KEY].startswith("-----BEGIN PRIVATE KEY-----")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    make_local_secrets(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in files} == files
