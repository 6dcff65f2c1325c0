"""Custom resources: strict validation with kubeconform, under schemas from their operators' own Go modules."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from shop_cluster.failures import ClusterError
from shop_cluster.go import module_source
from shop_cluster.programs import make_once
from shop_cluster.state import cache_folder
from shop_k8s.model import Object, group
from shop_k8s.operators import is_custom
from shop_k8s.policy import Failure
from shop_k8s.schemas import Distinct

MODULES: Final = {
    "github.com/cloudnative-pg/cloudnative-pg@v1.27.1": ("config/crd/bases/postgresql.cnpg.io_clusters.yaml",),
    "github.com/external-secrets/external-secrets@v1.3.2": (
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    "github.com/kedacore/keda/v2@v2.21.0": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    "github.com/percona/percona-server-mongodb-operator@v1.22.0": (
        "config/crd/bases/psmdb.percona.com_perconaservermongodbs.yaml",
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "sigs.k8s.io/gateway-api@v1.6.3": ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
}
WITHOUT_SCHEMA: Final = {"kafka.strimzi.io"}
"""Strimzi is no Go module and publishes its definitions nowhere else that a package client reaches."""
_SCHEMA_FILE = "{{.ResourceKind}}_{{.Group}}_{{.ResourceAPIVersion}}.json"


def fetch_definitions() -> Path:
    """The folder with the CustomResourceDefinitions, and a JSON schema made of each of their versions."""
    digest = hashlib.sha256(json.dumps(MODULES).encode()).hexdigest()[:12]
    return make_once(cache_folder() / f"definitions-{digest}", _fetch)


def _fetch(folder: Path) -> None:
    folder.mkdir()
    for module, files in MODULES.items():
        source = module_source(module)
        for file in files:
            _take(source / file, folder)


def _take(file: Path, folder: Path) -> None:
    if not file.exists():
        raise ClusterError(f"{file} is not in its module", remedy="correct MODULES in shop_k8s/custom.py")
    shutil.copyfile(file, folder / file.name)
    definition = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
    spec = definition["spec"]
    for version in spec["versions"]:
        name = f"{spec['names']['kind'].lower()}_{spec['group']}_{version['name']}.json"
        (folder / name).write_text(json.dumps(closed(version["schema"]["openAPIV3Schema"])))


def closed(schema: Any) -> Any:
    """A structural schema in which fields it does not name are errors, as the API server's strict mode has it."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    if "properties" in found:
        found["properties"] = {name: closed(inner) for name, inner in found["properties"].items()}
        if found.get("type") == "object" and not found.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = closed(found[key])
    if found.pop("nullable", False) and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found


@dataclass(frozen=True, slots=True)
class CustomResult:
    failures: list[Failure]
    validated: int
    left_out: set[str]
    """Kinds that no schema is there for."""


def validate_custom(kubeconform: Path, definitions: Path, objects: Distinct) -> CustomResult:
    custom = [(found, names) for found, names in objects if is_custom(found)]
    left_out = {f"{found['kind']} ({group(found)})" for found, _ in custom if group(found) in WITHOUT_SCHEMA}
    asked = [(found, names) for found, names in custom if group(found) not in WITHOUT_SCHEMA]
    if not asked:
        return CustomResult([], 0, left_out)
    names = {(found["kind"], found["metadata"]["name"]): builds for found, builds in asked}
    command = [str(kubeconform), "-strict", "-output", "json", "-schema-location", f"{definitions}/{_SCHEMA_FILE}", "-"]
    text = "\n---\n".join(json.dumps(found) for found, _ in asked)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    try:
        resources: list[Object] = json.loads(done.stdout)["resources"]
    except (ValueError, KeyError):
        raise ClusterError("kubeconform did not answer", log_lines=done.stderr.splitlines()[-15:]) from None
    failures = [
        Failure(
            names.get((bad["kind"], bad["name"]), ("a build",)),
            f"{bad['kind']}/{bad['name']}",
            "custom schema",
            f"{' '.join(bad['msg'].split())[:400]}; correct it",
        )
        for bad in resources
        if bad["status"] in {"statusInvalid", "statusError"}
    ]
    return CustomResult(failures, len(asked), left_out)
