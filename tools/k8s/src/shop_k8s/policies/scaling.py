"""Who decides how many pods there are, and within which bounds."""

from shop_common.events.contract import PARTITIONS
from shop_common.kafka.topics import GROUPS
from shop_k8s.model import APIS, WORKERS, Build, Object, dig, many, ref
from shop_k8s.policy import Complaints, policy

LEAST = 2


@policy("Each API has a HorizontalPodAutoscaler, and each workload at most one autoscaler of any kind.")
def one_autoscaler(build: Build) -> Complaints:
    for pod in build.workloads:
        scalers = build.scalers_of(pod.owner)
        if len(scalers) > 1:
            yield pod.name, f"{' and '.join(map(ref, scalers))} both scale it; keep one"
        name = pod.owner["metadata"]["name"]
        if name in APIS and [scaler["kind"] for scaler in scalers] != ["HorizontalPodAutoscaler"]:
            yield pod.name, "give it a HorizontalPodAutoscaler"


@policy("With any ScaledObject there is one for every worker.")
def keda_scales_workers(build: Build) -> Complaints:
    if not build.of("ScaledObject"):
        return
    for pod in build.workloads:
        is_worker = pod.owner["metadata"]["name"] in WORKERS
        if is_worker and [scaler["kind"] for scaler in build.scalers_of(pod.owner)] != ["ScaledObject"]:
            yield pod.name, "give it a ScaledObject"


@policy("`replicas` is not set where an autoscaler owns it, and is 2 or more where none does.")
def replicas_have_one_owner(build: Build) -> Complaints:
    for pod in build.workloads:
        replicas = pod.owner["spec"].get("replicas")
        if build.scalers_of(pod.owner):
            if replicas is not None:
                yield pod.name, "remove replicas: each apply would undo the autoscaler"
        elif not isinstance(replicas, int) or replicas < LEAST:
            yield pod.name, f"set replicas to {LEAST} or more, or give it an autoscaler"


def _bounds(scaler: Object) -> tuple[object, object]:
    spec = scaler["spec"]
    if scaler["kind"] == "ScaledObject":
        return spec.get("minReplicaCount"), spec.get("maxReplicaCount")
    return spec.get("minReplicas"), spec.get("maxReplicas")


@policy("Every autoscaler keeps 2 pods or more and has a greater upper bound.")
def autoscaler_bounds(build: Build) -> Complaints:
    for scaler in build.autoscalers:
        least, most = _bounds(scaler)
        if not isinstance(least, int) or least < LEAST or not isinstance(most, int) or most <= least:
            yield ref(scaler), f"set a minimum of {LEAST} or more and a greater maximum"


@policy("No worker can have more pods than a topic has partitions: the rest would stand idle.")
def within_partitions(build: Build) -> Complaints:
    for pod in build.workloads:
        if pod.owner["metadata"]["name"] not in WORKERS:
            continue
        most = [_bounds(scaler)[1] for scaler in build.scalers_of(pod.owner)] or [pod.owner["spec"].get("replicas", 1)]
        for bound in most:
            if not isinstance(bound, int) or bound > PARTITIONS:
                yield pod.name, f"scales to {bound}; a topic has {PARTITIONS} partitions"


@policy("A HorizontalPodAutoscaler says how fast it grows and shrinks, and measures what its pods request.")
def autoscaler_behaviour(build: Build) -> Complaints:
    for scaler in build.of("HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        for direction in ("scaleUp", "scaleDown"):
            if not many(spec, "behavior", direction, "policies"):
                yield ref(scaler), f"set behavior.{direction}.policies"
        if not dig(spec, "behavior", "scaleDown", "stabilizationWindowSeconds"):
            yield ref(scaler), "set behavior.scaleDown.stabilizationWindowSeconds"
        requested = [
            dig(container, "resources", "requests") or {}
            for container in many(build.target_of(scaler), "spec", "template", "spec", "containers")
        ]
        for metric in many(spec, "metrics"):
            name = dig(metric, "resource", "name")
            if name and not all(name in requests for requests in requested):
                yield ref(scaler), f"its pods request no {name}, so its utilisation is unknown"


@policy("A ScaledObject is triggered by the lag of a consumer group that exists, on a topic that it reads.")
def keda_triggers(build: Build) -> Complaints:
    for scaler in build.of("ScaledObject"):
        triggers = [trigger for trigger in many(scaler, "spec", "triggers") if trigger.get("type") == "kafka"]
        if not triggers:
            yield ref(scaler), "add a kafka trigger"
        for trigger in triggers:
            metadata = trigger.get("metadata") or {}
            if not metadata.get("bootstrapServers"):
                yield ref(scaler), "set bootstrapServers"
            if metadata.get("consumerGroup") not in GROUPS:
                yield ref(scaler), f"no group is called {metadata.get('consumerGroup')}: take {' or '.join(GROUPS)}"
            elif metadata.get("topic") != GROUPS[metadata["consumerGroup"]]:
                yield ref(scaler), f"group {metadata['consumerGroup']} reads {GROUPS[metadata['consumerGroup']]}"
            if metadata.get("allowIdleConsumers") == "true":
                yield ref(scaler), "remove allowIdleConsumers: a pod without a partition does nothing"
