"""Every overlay, and combinations of components, built with kustomize from a copy of `deploy`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import yaml

from shop_cluster.failures import ClusterError
from shop_cluster.state import ROOT
from shop_k8s.model import Build, Object
from shop_k8s.policy import Failure
from shop_k8s.secrets import make_local_secrets

OVERLAYS: Final = ("local", "production")
STORES: Final = ("datastores-dev", "datastores-operators")
TRACING: Final = ("", "jaeger", "otel-collector")
OPTIONAL: Final = ("keda", "monitoring", "gateway-api", "ingress", "loadgen")
ALWAYS: Final = "external-secrets"
"""Only the local overlay makes its own Secrets."""
ORDER: Final = (*STORES, "keda", "monitoring", "gateway-api", "ingress", ALWAYS, "jaeger", "otel-collector", "loadgen")
STRENGTH: Final = 3
IMAGES: Final = ("shop-gateway", "shop-users", "shop-orders")


def covering_combinations() -> list[tuple[str, ...]]:
    """Component lists in which each three choices (which stores, which tracing, a component or not) occur together."""
    choices = [STORES, TRACING, *((name, "") for name in OPTIONAL)]
    rows = list(product(*choices))
    covers = {row: set(combinations(enumerate(row), STRENGTH)) for row in rows}
    missing = set().union(*covers.values())
    chosen: list[tuple[str, ...]] = []
    while missing:
        best = max(rows, key=lambda row: len(covers[row] & missing))
        missing -= covers[best]
        chosen.append(tuple(sorted({*best, ALWAYS} - {""}, key=ORDER.index)))
    return chosen


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a build printed; `text` is None when it failed, and then `error` says why."""

    name: str
    text: str | None
    error: str = ""


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of `deploy` with throw-away secrets, in which combinations may be written."""
    source = ROOT / "deploy"
    if not (source / "k8s").is_dir():
        raise ClusterError(f"{source / 'k8s'} is not there", remedy="take a whole checkout")
    with TemporaryDirectory(prefix="shop-k8s-") as folder:
        tree = Path(folder).resolve()
        for part in ("k8s", "load", "monitoring"):
            if (source / part).is_dir():
                shutil.copytree(source / part, tree / part, ignore=shutil.ignore_patterns("secrets"))
        make_local_secrets(tree / "k8s" / "overlays" / "local" / "secrets")
        yield tree


def write_combination(tree: Path, name: str, components: tuple[str, ...]) -> Path:
    folder = tree / "k8s" / "combinations" / name
    folder.mkdir(parents=True)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "components": [f"../../components/{component}" for component in components],
        "images": [{"name": image, "newTag": "check"} for image in IMAGES],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
    return folder


def build_manifests(kustomize: Path, tree: Path) -> list[Manifest]:
    folders = {name: tree / "k8s" / "overlays" / name for name in OVERLAYS}
    for components in covering_combinations():
        name = "+".join(components)
        folders[name] = write_combination(tree, name, components)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda item: kustomize_build(kustomize, *item), folders.items()))


def kustomize_build(kustomize: Path, name: str, folder: Path) -> Manifest:
    done = subprocess.run([kustomize, "build", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        return Manifest(name, None, " ".join(done.stderr.split())[-600:])
    if done.stderr.strip():  # deprecated fields and the like
        return Manifest(name, None, f"kustomize warns: {' '.join(done.stderr.split())[:400]}")
    return Manifest(name, done.stdout)


def parse(manifest: Manifest) -> Build:
    """Objects that several builds have in common are parsed once and shared: look, do not touch."""
    documents = f"\n{manifest.text or ''}".split("\n---\n")
    return Build(manifest.name, [found for text in documents if (found := _document(text))])


@cache
def _document(text: str) -> Object:
    parsed: Object = yaml.load(text, Loader=yaml.CSafeLoader)
    return parsed


def build_failures(manifests: list[Manifest]) -> list[Failure]:
    return [
        Failure((manifest.name,), "kustomization", "build", manifest.error)
        for manifest in manifests
        if manifest.text is None
    ]
