"""Every object: where it is and how it is labelled; the namespace; the topics that an operator makes."""

from shop_common.events.contract import PARTITIONS
from shop_common.kafka.topics import wanted_topics
from shop_k8s.model import APIS, NAME, NAMESPACE, WORKERS, Build, dig, ref
from shop_k8s.policy import Complaints, policy

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
CLUSTER_WIDE = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "StorageClass"}


@policy("Every object that can be in a namespace is in `shop`.")
def one_namespace(build: Build) -> Complaints:
    for found in build.objects:
        if found["kind"] not in CLUSTER_WIDE and found["metadata"].get("namespace") != NAMESPACE:
            yield ref(found), f"set its namespace to {NAMESPACE}"


@policy("The namespace enforces the restricted Pod Security Standard, and warns and audits by it.")
def restricted_namespace(build: Build) -> Complaints:
    namespace = build.find("Namespace", NAMESPACE)
    if namespace is None:
        yield f"Namespace/{NAMESPACE}", "add it"
        return
    for mode in ("enforce", "warn", "audit"):
        if dig(namespace, "metadata", "labels", f"pod-security.kubernetes.io/{mode}") != "restricted":
            yield ref(namespace), f"label it pod-security.kubernetes.io/{mode}: restricted"


@policy(
    "Every object and every pod is labelled app.kubernetes.io/part-of: shop; every pod has a name and a component too."
)
def labels(build: Build) -> Complaints:
    for found in build.objects:
        if dig(found, "metadata", "labels", PART_OF) != "shop":
            yield ref(found), f"label it {PART_OF}: shop"
    for pod in build.pods:
        if pod.labels.get(PART_OF) != "shop":
            yield pod.name, f"label its template {PART_OF}: shop"
        if pod.labels.get(NAME) != pod.owner["metadata"]["name"]:
            yield pod.name, f"label its template {NAME}: {pod.owner['metadata']['name']}"
        if not pod.labels.get(COMPONENT):
            yield pod.name, f"label its template {COMPONENT}"


@policy("Selectors use app.kubernetes.io/name alone, since they cannot be changed and other labels may be.")
def narrow_selectors(build: Build) -> Complaints:
    for found in build.of("Deployment", "StatefulSet"):
        name = found["metadata"]["name"]
        if found["spec"].get("selector") != {"matchLabels": {NAME: name}}:
            yield ref(found), f"select by {NAME}: {name} alone (`labels:`, not `commonLabels:`)"


@policy("All three APIs and both workers are in every build.")
def complete(build: Build) -> Complaints:
    there = {pod.name for pod in build.workloads}
    for name in (*APIS, *WORKERS):
        if f"Deployment/{name}" not in there:
            yield f"Deployment/{name}", "it is not there, or runs no module of ours with `python -m`"


@policy("No two objects of a build are of the same kind and name.")
def unique(build: Build) -> Complaints:
    seen: set[tuple[str, str]] = set()
    for found in build.objects:
        key = (found["apiVersion"], ref(found))
        if key in seen:
            yield ref(found), "it is there twice; remove one"
        seen.add(key)


@policy("Topics that an operator makes are those of shop_common.kafka.topics, with the same partitions and settings.")
def topics(build: Build) -> Complaints:
    made = {dig(topic, "spec", "topicName") or topic["metadata"]["name"]: topic for topic in build.of("KafkaTopic")}
    if not made:
        if not build.find("Job", "topics"):
            yield "Job/topics", "nothing makes the topics; add the Job or KafkaTopics"
        return
    wanted = wanted_topics()
    for name in sorted(wanted.keys() - made.keys()):
        yield f"KafkaTopic/{name}", "add it"
    for name, topic in made.items():
        if name not in wanted:
            yield ref(topic), f"{name} is no topic of shop_common.kafka.topics; remove it"
            continue
        if dig(topic, "spec", "partitions") != PARTITIONS:
            yield ref(topic), f"set spec.partitions to {PARTITIONS}: any other number breaks the order per key"
        config = {key: str(value) for key, value in (dig(topic, "spec", "config") or {}).items()}
        for key, value in wanted[name].items():
            if config.get(key) != value:
                yield ref(topic), f"set spec.config {key}: {value}"
