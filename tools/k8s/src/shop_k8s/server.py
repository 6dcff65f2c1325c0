"""`make k8s-check-server`: what a real API server says to every object, in a dry run with warnings as errors."""

import json
import time
from collections.abc import Iterable
from typing import Any

import httpx
import yaml

from shop_cluster import go
from shop_cluster.failures import ClusterError
from shop_k8s import tools
from shop_k8s.apiserver import VERSION, running_api_server
from shop_k8s.bad import bad_objects
from shop_k8s.builds import build_failures, build_manifests, copied_tree, parse
from shop_k8s.custom import fetch_definitions
from shop_k8s.model import NAMESPACE, Build, Object, many, ref
from shop_k8s.policy import Failure, require_none
from shop_k8s.schemas import distinct

_DRY = {"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "shop-k8s"}
_PATIENCE_SECONDS = 60.0
_DEFINITION = "CustomResourceDefinition"


class Server:
    """Creates objects, for real or in a dry run."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._paths: dict[tuple[str, str], str | None] = {}

    def path(self, found: Object) -> str | None:
        """Where objects of its kind are made; None where the server does not know the kind."""
        key = (found["apiVersion"], found["kind"])
        if key not in self._paths:
            prefix = f"/apis/{key[0]}" if "/" in key[0] else f"/api/{key[0]}"
            answer = self._client.get(prefix)
            resources = answer.json()["resources"] if answer.is_success else []
            for resource in resources:
                if "/" not in resource["name"]:
                    place = f"{prefix}/namespaces/{NAMESPACE}" if resource["namespaced"] else prefix
                    self._paths[key[0], resource["kind"]] = f"{place}/{resource['name']}"
            self._paths.setdefault(key, None)
        return self._paths[key]

    def create(self, found: Object, *, dry: bool) -> str | None:
        """None when the server took it without a word, else what it said."""
        path = self.path(found)
        if path is None:
            return f"the server knows no {found['apiVersion']} {found['kind']}"
        answer = self._client.post(path, json=found, params=_DRY if dry else {})
        warnings = answer.headers.get_list("warning")
        if not answer.is_success:
            return str(answer.json().get("message", answer.text))
        return f"warns: {'; '.join(warnings)}" if warnings else None

    def require(self, found: Object) -> None:
        """Create it for real."""
        said = self.create(found, dry=False)
        if said is not None:
            raise ClusterError(f"the API server refuses {ref(found)}: {said}", remedy="correct it")

    def install(self, definition: Object) -> None:
        """A CustomResourceDefinition, and wait until it is served."""
        self.require(definition)
        path = f"{self.path(definition)}/{definition['metadata']['name']}"
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < give_up:
            conditions = many(self._client.get(path).json(), "status", "conditions")
            if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
                return
            time.sleep(0.1)
        raise ClusterError(f"{ref(definition)} is not served after {_PATIENCE_SECONDS:g} s")


def check_server() -> None:
    """Raises ClusterError with a line for each refusal or warning, and for each bad object that was taken."""
    started = time.monotonic()
    with copied_tree() as tree:
        manifests = build_manifests(go.build(tools.KUSTOMIZE), tree)
    failures = build_failures(manifests)
    builds = [parse(manifest) for manifest in manifests if manifest.text is not None]
    definitions = sorted(fetch_definitions().glob("*.yaml"))
    print(f"{time.monotonic() - started:6.1f} s  {len(builds)} combinations built", flush=True)
    with running_api_server() as client:
        print(f"{time.monotonic() - started:6.1f} s  kube-apiserver v{VERSION} is ready", flush=True)
        server = Server(client)
        for file in definitions:
            server.install(yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader))
        failures += ask(server, builds)
        failures += ask_bad(server, builds)
    print(f"{time.monotonic() - started:6.1f} s  in all", flush=True)
    require_none(failures, "at the API server", "correct the lines above")


def ask(server: Server, builds: list[Build]) -> list[Failure]:
    objects = distinct(builds)
    namespaces = [found for found, _ in objects if found["kind"] == "Namespace"]
    for namespace in namespaces:
        server.require(namespace)
    server.require(_object("ServiceAccount", "default"))
    failures: list[Failure] = []
    left_out: dict[str, int] = {}
    taken = 0
    for found, names in objects:
        if found in namespaces:
            continue
        if server.path(found) is None:
            kind = f"{found['apiVersion']} {found['kind']}"
            left_out[kind] = left_out.get(kind, 0) + 1
            continue
        said = server.create(found, dry=True)
        if said is None:
            taken += 1
        else:
            failures.append(Failure(names, ref(found), "API server", said))
    print(f"          {taken} objects taken in a dry run", flush=True)
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        print(f"          left out, their definitions cannot be had: {kinds}", flush=True)
    return failures + _ask_pods(server, builds)


def _ask_pods(server: Server, builds: list[Build]) -> list[Failure]:
    """Pod security refuses pods; of what would make such pods it only warns."""
    accounts = {ref(found): found for build in builds for found in build.of("ServiceAccount")}
    for account in accounts.values():
        server.require(account)
    failures: list[Failure] = []
    pods = distinct(Build(build.name, bare_pods(build)) for build in builds)
    for pod, names in pods:
        said = server.create(pod, dry=True)
        if said is not None:
            failures.append(Failure(names, ref(pod), "API server", said))
    print(f"          {len(pods) - len(failures)} pod templates taken as pods", flush=True)
    return failures


def bare_pods(build: Build) -> list[Object]:
    """A StatefulSet's claims become volumes."""
    pods = []
    for pod in build.pods:
        claims = [claim["metadata"]["name"] for claim in many(pod.owner, "spec", "volumeClaimTemplates")]
        volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
        spec = pod.spec | {"volumes": [*many(pod.spec, "volumes"), *volumes]}
        pods.append(_object("Pod", pod.owner["metadata"]["name"], labels=pod.labels, spec=spec))
    return pods


def _object(kind: str, name: str, *, labels: dict[str, str] | None = None, **content: Any) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def ask_bad(server: Server, builds: Iterable[Build]) -> list[Failure]:
    """Each bad object must be refused, for the reason it is bad."""
    failures: list[Failure] = []
    production = next(build for build in builds if build.name == "production")
    examples = bad_objects(json.loads(json.dumps(production.objects)))
    for example in examples:
        said = server.create(example.found, dry=True) or "took it"
        if example.refusal not in said:
            where = f"a bad {ref(example.found)}"
            failures.append(
                Failure((example.what,), where, "API server", f"must be refused ({example.refusal}): {said}")
            )
    print(f"          {len(examples) - len(failures)} of {len(examples)} bad objects refused", flush=True)
    return failures
