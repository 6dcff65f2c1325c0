"""Strict validation under the API schemas that kubernetes-validate ships, for the three newest versions it has.

Its own `validate` reads the megabytes of definitions anew for each object; here each schema is compiled once.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema_rs

from shop_cluster.failures import ClusterError
from shop_cluster.programs import package_file
from shop_k8s.model import Build, Object, ref
from shop_k8s.operators import is_custom
from shop_k8s.policy import Failure

Distinct = list[tuple[Object, tuple[str, ...]]]
"""Each different object with the names of the builds that have it."""
NEWEST: Final = 3
_DEFINITIONS = "_definitions.json"
_NUMBERS = re.compile(r"v(\d+)\.(\d+)")


@cache
def schema_folders() -> dict[str, Path]:
    """Version → folder of its strict schemas, the oldest of the three first."""
    shipped = package_file("kubernetes_validate", "kubernetes-json-schema")
    found = {}
    for folder in shipped.glob("v*-local-strict") if shipped else ():
        match = _NUMBERS.match(folder.name)
        if match:
            found[int(match[1]), int(match[2])] = folder
    if len(found) < NEWEST:
        raise ClusterError("kubernetes-validate ships no schemas here", remedy="make venv")
    return {f"{major}.{minor}": found[major, minor] for major, minor in sorted(found)[-NEWEST:]}


@cache
def _registry(folder: Path) -> jsonschema_rs.Registry:
    definitions = json.loads((folder / _DEFINITIONS).read_bytes())
    return jsonschema_rs.Registry([(f"shop:/{_DEFINITIONS}", definitions)], draft=jsonschema_rs.Draft7)


@cache
def _validator(folder: Path, name: str) -> jsonschema_rs.Draft7Validator | None:
    file = folder / name
    if not file.exists():
        return None
    schema: Any = json.loads(file.read_bytes())
    schema.pop("$schema", None)  # it names no draft
    return jsonschema_rs.Draft7Validator(schema, registry=_registry(folder), base_uri=f"shop:/{name}")


def _file_name(found: Object) -> str:
    group, _, version = str(found["apiVersion"]).rpartition("/")
    return "-".join(part for part in (found["kind"].lower(), group.partition(".")[0], version) if part) + ".json"


def validate(objects: Distinct) -> list[Failure]:
    """Each object under each version; kinds that come with operators are left to `custom`."""
    failures = []
    for found, names in objects:
        if is_custom(found):
            continue
        for version, folder in schema_folders().items():
            validator = _validator(folder, _file_name(found))
            if validator is None:
                says = f"Kubernetes {version} has no {found['apiVersion']} {found['kind']}; use an API version it has"
                failures.append(Failure(names, ref(found), f"schema {version}", says))
                continue
            for error in validator.iter_errors(found):
                path = ".".join(map(str, error.instance_path)) or "the object"
                says = f"{path}: {error.message[:300]}; correct it"
                failures.append(Failure(names, ref(found), f"schema {version}", says))
    return failures


def distinct(builds: Iterable[Build]) -> Distinct:
    objects: dict[str, Object] = {}
    names: dict[str, list[str]] = {}
    for build in builds:
        for found in build.objects:
            key = json.dumps(found, sort_keys=True, default=str)
            objects[key] = found
            names.setdefault(key, []).append(build.name)
    return [(found, tuple(dict.fromkeys(names[key]))) for key, found in objects.items()]
