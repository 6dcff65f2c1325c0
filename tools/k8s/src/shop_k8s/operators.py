"""What operators and platforms make at run time and no build declares: Secrets, Services, pods by their labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shop_k8s.model import Build, Object, dig, many

STORE = "shop.example/store"
OUTSIDE = {
    *("kube-system", "monitoring", "keda", "gateway-system", "ingress-system", "tracing"),
    *("cnpg-system", "strimzi-system", "psmdb-system"),
}
"""Namespaces of what else runs in a cluster."""
GATEWAYS = {("gateway-system", "public")}
"""A Gateway is the platform's: namespace and name."""
TLS_SECRETS = {"shop-tls"}
SECRET_STORES = {"shop"}
_POD_MAKERS = ("Cluster", "Kafka", "KafkaNodePool", "PerconaServerMongoDB")


@dataclass(frozen=True, slots=True)
class MadeService:
    name: str
    ports: tuple[int, ...]
    store: str
    """The label of the pods behind it."""


def made_services(build: Build) -> list[MadeService]:
    return list(_services(build))


def _services(build: Build) -> Iterator[MadeService]:
    for found in build.of(*_POD_MAKERS):
        name = found["metadata"]["name"]
        if found["kind"] == "Cluster":
            yield MadeService(f"{name}-rw", (5432,), "postgres")
        elif found["kind"] == "Kafka":
            ports = tuple(listener["port"] for listener in many(found, "spec", "kafka", "listeners"))
            yield MadeService(f"{name}-kafka-bootstrap", ports, "kafka")
        elif found["kind"] == "PerconaServerMongoDB":
            for replica_set in many(found, "spec", "replsets"):
                yield MadeService(f"{name}-{replica_set['name']}", (27017,), "mongo")


def made_secrets(build: Build) -> set[str]:
    names = {"Cluster": "{}-ca", "PerconaServerMongoDB": "{}-ssl"}
    return {names[found["kind"]].format(found["metadata"]["name"]) for found in build.of(*names)} | TLS_SECRETS


def made_pods(build: Build) -> list[tuple[str, dict[str, str]]]:
    """Name of the maker, and labels of its pods: every `labels` in its spec that say which store it is, and its own."""
    return list(_pods(build))


def _pods(build: Build) -> Iterator[tuple[str, dict[str, str]]]:
    for found in build.of(*_POD_MAKERS):
        name = found["metadata"]["name"]
        own = {"cnpg.io/cluster": name} if found["kind"] == "Cluster" else {}
        for labels in _labels(dig(found, "spec")):
            if STORE in labels:
                yield f"{found['kind']}/{name}", own | labels
        if own:
            yield f"{found['kind']}/{name} jobs", own


def _labels(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "labels" and isinstance(inner, dict):
                yield inner
            else:
                yield from _labels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _labels(inner)


def is_custom(found: Object) -> bool:
    """Whether a CustomResourceDefinition has to be installed for it."""
    group = str(found["apiVersion"]).rpartition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group == "gateway.networking.k8s.io"
