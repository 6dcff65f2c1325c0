"""How workloads of ours are replaced, stopped, spread and evicted, and how Jobs end."""

from shop_k8s.environment import settings_of
from shop_k8s.model import WORKERS, Build, Pod, dig, many, ref, selects
from shop_k8s.policy import Complaints, policy

JOB_STAGE_SECONDS = 25
"""What `worker_app` gives the jobs of one stage to stop, and then to be cancelled; there are two stages."""
CLOSE_SECONDS = 8
"""Pools have 5, the last spans 3."""
TOPOLOGY = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
MAX_REVISIONS = 10


@policy("A rollout never takes a ready pod away before its successor has been ready for a while.")
def rolling_update(build: Build) -> Complaints:
    for pod in build.workloads:
        spec = pod.owner["spec"]
        update = dig(spec, "strategy", "rollingUpdate") or {}
        if update.get("maxUnavailable") != 0 or update.get("maxSurge") in {0, "0%", None}:
            yield pod.name, "set strategy.rollingUpdate to maxUnavailable: 0 and a maxSurge above 0"
        if not spec.get("minReadySeconds"):
            yield pod.name, "set minReadySeconds"


@policy("A rollout that gets nowhere is noticed, and a few of its predecessors are kept.")
def rollout_bounds(build: Build) -> Complaints:
    for pod in build.workloads:
        spec = pod.owner["spec"]
        if not 1 <= spec.get("revisionHistoryLimit", -1) <= MAX_REVISIONS:
            yield pod.name, f"set revisionHistoryLimit between 1 and {MAX_REVISIONS}"
        if "progressDeadlineSeconds" not in spec:
            yield pod.name, "set progressDeadlineSeconds"


def _sleep(pod: Pod) -> float:
    return float(dig(pod.main, "lifecycle", "preStop", "sleep", "seconds") or 0)


@policy("A pod that a Service leads to sleeps before it stops and serves on a while after the signal, unready.")
def goes_quietly(build: Build) -> Complaints:
    for pod in build.workloads:
        selectors = [dig(service, "spec", "selector") for service in build.of("Service")]
        if not any(selector and selects({"matchLabels": selector}, pod.labels) for selector in selectors):
            continue
        if _sleep(pod) <= 0:
            yield pod.name, "set lifecycle.preStop.sleep.seconds: nodes take a while to forget an endpoint"
        settings = settings_of(build, pod)
        if settings is not None and settings.http.drain_seconds <= 0:
            yield pod.name, "set …HTTP__DRAIN_SECONDS: clients' open connections must be told to close"


@policy("A pod's grace period is longer than its sleep, drain, graceful stop, jobs' stop and flush together.")
def grace_period(build: Build) -> Complaints:
    for pod in build.workloads:
        settings = settings_of(build, pod)
        if settings is None:
            continue  # `settings` says why
        needed = _sleep(pod) + settings.http.drain_seconds + settings.http.graceful_seconds + CLOSE_SECONDS
        if pod.owner["metadata"]["name"] in WORKERS:
            needed += 2 * JOB_STAGE_SECONDS
        if pod.spec.get("terminationGracePeriodSeconds", 30) <= needed:
            yield pod.name, f"set terminationGracePeriodSeconds above {needed:g}"


@policy("Replicas spread over hosts and over zones.")
def spread(build: Build) -> Complaints:
    for pod in build.workloads:
        spread = {
            constraint.get("topologyKey")
            for constraint in many(pod.spec, "topologySpreadConstraints")
            if selects(constraint.get("labelSelector"), pod.labels) and constraint.get("maxSkew") == 1
        }
        for missing in sorted(set(TOPOLOGY) - spread):
            yield pod.name, f"add a topologySpreadConstraint over {missing} with maxSkew 1 that selects its own pods"


@policy("Replicas avoid each other's hosts.")
def anti_affinity(build: Build) -> Complaints:
    for pod in build.workloads:
        rules = dig(pod.spec, "affinity", "podAntiAffinity") or {}
        terms = [
            *many(rules, "requiredDuringSchedulingIgnoredDuringExecution"),
            *(dig(term, "podAffinityTerm") for term in many(rules, "preferredDuringSchedulingIgnoredDuringExecution")),
        ]
        if not any(
            dig(term, "topologyKey") == TOPOLOGY[0] and selects(dig(term, "labelSelector"), pod.labels)
            for term in terms
        ):
            yield pod.name, f"add a podAntiAffinity over {TOPOLOGY[0]} that selects its own pods"


@policy("Every workload of ours has one PodDisruptionBudget, which lets one pod go at a time and broken ones always.")
def disruption_budget(build: Build) -> Complaints:
    for pod in build.workloads:
        budgets = [
            budget for budget in build.of("PodDisruptionBudget") if selects(dig(budget, "spec", "selector"), pod.labels)
        ]
        if len(budgets) != 1:
            yield pod.name, f"{len(budgets)} PodDisruptionBudgets select it; there must be one"
        for budget in budgets:
            if budget["spec"].get("maxUnavailable") != 1 or "minAvailable" in budget["spec"]:
                yield ref(budget), "set maxUnavailable: 1, and no minAvailable"
            if budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
                yield ref(budget), "set unhealthyPodEvictionPolicy: AlwaysAllow, else a broken pod blocks a drain"


@policy(
    "Every Job ends: it has a deadline, a bound on retries, a time after which it is removed, and no restarts for ever."
)
def job_bounds(build: Build) -> Complaints:
    for job in build.of("Job"):
        for field in ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
            if not isinstance(job["spec"].get(field), int):
                yield ref(job), f"set {field}"
        if dig(job, "spec", "template", "spec", "restartPolicy") not in {"Never", "OnFailure"}:
            yield ref(job), "set restartPolicy to Never or OnFailure"
