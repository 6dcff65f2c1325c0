"""kube-score: no critical findings in any build."""

import json
import subprocess
from pathlib import Path
from typing import Any

from shop_cluster.failures import ClusterError
from shop_k8s.builds import Manifest
from shop_k8s.policy import Failure

_CRITICAL = 1
_OPTIONS = ("--output-format", "json", "--ignore-container-cpu-limit")
_LOCAL = ("--ignore-test", "container-image-pull-policy")
"""Its images are loaded into the nodes and are in no registry."""


def score(kube_score: Path, manifests: list[Manifest]) -> list[Failure]:
    """Each different critical finding once."""
    builds: dict[tuple[str, str], list[str]] = {}
    for manifest in manifests:
        for finding in _critical(kube_score, manifest):
            builds.setdefault(finding, []).append(manifest.name)
    return [Failure(tuple(names), where, "kube-score", says) for (where, says), names in builds.items()]


def _critical(kube_score: Path, manifest: Manifest) -> set[tuple[str, str]]:
    options = [*_OPTIONS, *(_LOCAL if manifest.name == "local" else ())]
    done = subprocess.run(
        [kube_score, "score", *options, "-"], input=manifest.text, capture_output=True, text=True, check=False
    )
    try:
        objects: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        raise ClusterError(f"kube-score did not judge {manifest.name}", log_lines=lines[-15:]) from None
    return {
        (f"{found['type_meta']['kind']}/{found['object_meta']['name']}", _says(check))
        for found in objects
        for check in found["checks"] or []
        if not check["skipped"] and check["grade"] <= _CRITICAL
    }


def _says(check: dict[str, Any]) -> str:
    comments = [f"{comment['path']} {comment['summary']}".strip() for comment in check["comments"] or []]
    return f"{check['check']['id']}: {'; '.join(comments) or check['check']['comment']}"
