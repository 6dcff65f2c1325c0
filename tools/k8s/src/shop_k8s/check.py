"""`make k8s-check`: builds, schemas, kubeconform, kube-score, policies and drift, with the time that each takes."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import shop_k8s.policies  # noqa: F401 - registers them
from shop_cluster import go
from shop_k8s import tools
from shop_k8s.builds import build_failures, build_manifests, copied_tree, parse
from shop_k8s.compose import compose_failures
from shop_k8s.custom import fetch_definitions, validate_custom
from shop_k8s.policy import POLICIES, Failure, examine, require_none
from shop_k8s.schemas import distinct, schema_folders, validate
from shop_k8s.score import score

T = TypeVar("T")


def check() -> None:
    """Raises ClusterError with a line for each failure."""
    started = time.monotonic()
    failures: list[Failure] = []

    def step(name: str, work: Callable[[], T], say: Callable[[T], str] = lambda _: "") -> T:
        begun = time.monotonic()
        result = work()
        print(f"{time.monotonic() - begun:6.1f} s  {name}{say(result)}".rstrip(), flush=True)
        return result

    def judge(name: str, work: Callable[[], list[Failure]]) -> None:
        found = step(name, work, lambda found: f": {len(found)} failures" if found else ": fine")
        failures.extend(found)

    with copied_tree() as tree, ThreadPoolExecutor(1) as builder, ThreadPoolExecutor(1) as fetcher:
        # One after the other, each with all processors: two at once would compile the same packages twice.
        kustomize = builder.submit(go.build, tools.KUSTOMIZE)
        kubeconform = builder.submit(go.build, tools.KUBECONFORM)
        definitions = fetcher.submit(fetch_definitions)
        kube_score = builder.submit(go.build, tools.KUBE_SCORE)
        judge("settings in docker-compose.yml", compose_failures)
        step("waiting for kustomize", kustomize.result)
        manifests = step(
            "building", lambda: build_manifests(kustomize.result(), tree), lambda m: f" {len(m)} combinations"
        )
        failures += build_failures(manifests)
        good = [manifest for manifest in manifests if manifest.text is not None]
        builds = step("parsing", lambda: [parse(manifest) for manifest in good])
        judge(f"{len(POLICIES)} policies", lambda: examine(builds))
        objects = distinct(builds)
        schemas = f"schemas of Kubernetes {', '.join(schema_folders())}, {len(objects)} different objects"
        judge(schemas, lambda: validate(objects))
        step("waiting for kubeconform and definitions", lambda: (kubeconform.result(), definitions.result()))
        custom = step(
            "kubeconform",
            lambda: validate_custom(kubeconform.result(), definitions.result(), objects),
            lambda found: f": {found.validated} custom objects, {len(found.failures)} failures",
        )
        failures += custom.failures
        if custom.left_out:
            print(f"          not validated, no schema can be had: {', '.join(sorted(custom.left_out))}", flush=True)
        step("waiting for kube-score", kube_score.result)
        judge("kube-score", lambda: score(kube_score.result(), good))
    print(f"{time.monotonic() - started:6.1f} s  in all", flush=True)
    remedy = "correct the lines above; docs/k8s-policies.md says what each policy asserts"
    require_none(failures, "in what deploy/k8s builds", remedy)
