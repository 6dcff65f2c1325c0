"""What one combination of manifests builds: its objects, its pods, and how they name each other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Object = dict[str, Any]
NAMESPACE = "shop"
APIS = ("gateway", "users", "orders")
WORKERS = ("users-worker", "orders-worker")
NAME = "app.kubernetes.io/name"
ANY_KEY = "*"
"""Of a Secret whose keys only its maker knows."""


_FITS: dict[str, Callable[[Mapping[str, str], str, list[str]], bool]] = {
    "In": lambda labels, key, values: labels.get(key) in values,
    "NotIn": lambda labels, key, values: labels.get(key) not in values,
    "Exists": lambda labels, key, _: key in labels,
    "DoesNotExist": lambda labels, key, _: key not in labels,
}


def dig(value: Any, *path: str | int) -> Any:
    """What is at the end of the path, or None."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def many(value: Any, *path: str | int) -> list[Any]:
    """The list at the end of the path; an empty one where there is none."""
    found = dig(value, *path)
    return found if isinstance(found, list) else []


def ref(found: Object) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def group(found: Object) -> str:
    """The API group; empty for the core one."""
    return str(found["apiVersion"]).rpartition("/")[0]


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector fits; none at all fits nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _FITS[rule["operator"]](labels, rule["key"], rule.get("values", []))
        for rule in selector.get("matchExpressions") or []
    )


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template and the object it is in."""

    owner: Object
    template: Object

    @property
    def name(self) -> str:
        return ref(self.owner)

    @property
    def labels(self) -> dict[str, str]:
        return dig(self.template, "metadata", "labels") or {}

    @property
    def spec(self) -> Object:
        return dig(self.template, "spec") or {}

    @property
    def containers(self) -> list[Object]:
        return [*many(self.spec, "initContainers"), *many(self.spec, "containers")]

    @property
    def is_job(self) -> bool:
        return self.owner["kind"] in {"Job", "CronJob"}

    @property
    def main(self) -> Object:
        """The container that the pod is there for."""
        main: Object = many(self.spec, "containers")[0]
        return main

    @property
    def command(self) -> list[str]:
        return [str(word) for word in (*many(self.main, "command"), *many(self.main, "args"))]

    @property
    def is_ours(self) -> bool:
        """Whether it runs one of our modules; our images run scripts as well."""
        return is_our_image(self.main.get("image", "")) and module_of(self.command).startswith("shop_")

    @property
    def ports(self) -> dict[str, int]:
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in many(container, "ports")
            if "name" in port
        }


def is_our_image(image: str) -> bool:
    return image.rpartition("/")[2].startswith("shop-")


def module_of(command: list[str]) -> str:
    """What `python -m` runs; empty where nothing does."""
    return command[command.index("-m") + 1] if "-m" in command[:-1] else ""


@dataclass(frozen=True)
class Build:
    """One combination; policies look at nothing else."""

    name: str
    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] in kinds]

    def find(self, kind: str, name: str | None) -> Object | None:
        """By name; of a kind that several groups have, the first."""
        return next((found for found in self.of(kind) if found["metadata"]["name"] == name), None)

    @cached_property
    def pods(self) -> list[Pod]:
        return list(self._pods())

    def _pods(self) -> Iterator[Pod]:
        for owner in self.of("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield Pod(owner, dig(owner, "spec", "template") or {})
        for owner in self.of("CronJob"):
            yield Pod(owner, dig(owner, "spec", "jobTemplate", "spec", "template") or {})

    @property
    def ours(self) -> list[Pod]:
        """Pods of our own modules."""
        return [pod for pod in self.pods if pod.is_ours]

    @property
    def workloads(self) -> list[Pod]:
        """Those of ours that run for ever."""
        return [pod for pod in self.ours if not pod.is_job]

    def pods_of(self, selector: Mapping[str, Any] | None) -> list[Pod]:
        return [pod for pod in self.pods if selects(selector, pod.labels)]

    @property
    def autoscalers(self) -> list[Object]:
        return self.of("HorizontalPodAutoscaler", "ScaledObject")

    def scalers_of(self, owner: Object) -> list[Object]:
        return [scaler for scaler in self.autoscalers if self.target_of(scaler) is owner]

    def target_of(self, scaler: Object) -> Object | None:
        target = dig(scaler, "spec", "scaleTargetRef") or {}
        return self.find(target.get("kind", "Deployment"), target.get("name"))

    @property
    def is_local(self) -> bool:
        """The one for a laptop: single pods, Secrets generated from files that nobody commits."""
        return self.name == "local"

    def secret_keys(self, name: str | None) -> set[str] | None:
        """The keys of a Secret as far as they can be known; None where nothing makes it."""
        for secret in self.of("Secret"):
            if secret["metadata"]["name"] == name:
                return {*(dig(secret, "data") or {}), *(dig(secret, "stringData") or {})}
        for external in self.of("ExternalSecret"):
            if (dig(external, "spec", "target", "name") or external["metadata"]["name"]) == name:
                templated = set(dig(external, "spec", "target", "template", "data") or {})
                keys = {entry["secretKey"] for entry in many(external, "spec", "data")}
                return templated or keys | ({ANY_KEY} if many(external, "spec", "dataFrom") else set())
        return None
