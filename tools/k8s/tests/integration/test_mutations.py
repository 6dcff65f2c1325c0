"""Each policy fails on a manifest that is broken in one place, and had nothing to say before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from shop_k8s.model import NAME, Build, Object, ref
from shop_k8s.policy import POLICIES

pytestmark = pytest.mark.timeout(900)  # the first time, kustomize is compiled

Break = Callable[[Build], None]
TEMPLATE = "spec template spec"
APP = f"{TEMPLATE} containers 0"
LOCAL, PRODUCTION = "local", "production"


def find(build: Build, name: str) -> Object:
    """By kind and name, which may end in `*` for a hash."""
    fits = name.removesuffix("*")
    return next(o for o in build.objects if ref(o) == name or (name.endswith("*") and ref(o).startswith(fits)))


def walk(found: Any, path: str) -> tuple[Any, Any]:
    """The holder of the last step, and that step."""
    *steps, last = [int(step) if step.isdigit() else step for step in path.split()]
    for step in steps:
        found = found[step] if isinstance(step, int) else found.setdefault(step, {})
    return found, last


def put(name: str, path: str, value: Any) -> Break:
    def change(build: Build) -> None:
        holder, last = walk(find(build, name), path)
        holder[last] = value

    return change


def drop(name: str, path: str) -> Break:
    def change(build: Build) -> None:
        holder, last = walk(find(build, name), path)
        del holder[last]

    return change


def append(name: str, path: str, value: Any) -> Break:
    def change(build: Build) -> None:
        holder, last = walk(find(build, name), path)
        holder.setdefault(last, []).append(value)

    return change


def remove(name: str) -> Break:
    return lambda build: build.objects.remove(find(build, name))


def add(kind: str, name: str, version: str = "v1", **content: Any) -> Break:
    metadata = {"name": name, "namespace": "shop", "labels": {"app.kubernetes.io/part-of": "shop"}}
    return lambda build: build.objects.append({"apiVersion": version, "kind": kind, "metadata": metadata, **content})


@dataclass(frozen=True, slots=True)
class Mutation:
    policy: str
    build: str
    change: Break


GATEWAY, WORKER, MIGRATE = "Deployment/gateway", "Deployment/users-worker", "Job/users-migrate"
AUTOSCALER = {"scaleTargetRef": {"kind": "Deployment", "name": "gateway"}, "minReplicas": 2, "maxReplicas": 4}
PEER = {"podSelector": {"matchLabels": {NAME: "loadgen"}}}

MUTATIONS = [
    Mutation(policy, build, change)
    for policy, build, change in (
        # pods
        ("ordinary-user", LOCAL, put(GATEWAY, f"{TEMPLATE} securityContext runAsUser", 0)),
        ("ordinary-user", LOCAL, put(GATEWAY, f"{APP} securityContext runAsNonRoot", value=False)),
        ("ordinary-user", LOCAL, drop("StatefulSet/kafka", f"{TEMPLATE} securityContext runAsGroup")),
        ("seccomp", LOCAL, drop(MIGRATE, f"{TEMPLATE} securityContext seccompProfile")),
        ("privileges", LOCAL, drop(WORKER, f"{APP} securityContext allowPrivilegeEscalation")),
        ("privileges", LOCAL, append(GATEWAY, f"{APP} securityContext capabilities add", "NET_ADMIN")),
        ("privileges", LOCAL, put(GATEWAY, f"{APP} securityContext privileged", value=True)),
        ("host", LOCAL, put(GATEWAY, f"{TEMPLATE} hostNetwork", value=True)),
        ("host", LOCAL, append(GATEWAY, f"{TEMPLATE} volumes", {"name": "x", "hostPath": {"path": "/"}})),
        ("host", LOCAL, put(GATEWAY, f"{APP} ports 0 hostPort", 8000)),
        (
            "read-only-root",
            LOCAL,
            put("StatefulSet/mongo", f"{APP} securityContext readOnlyRootFilesystem", value=False),
        ),
        ("read-only-root", LOCAL, put(GATEWAY, f"{TEMPLATE} volumes 0 emptyDir", {})),
        ("resources", LOCAL, drop("Deployment/jaeger", f"{APP} resources limits memory")),
        ("resources", LOCAL, drop(GATEWAY, f"{APP} resources requests ephemeral-storage")),
        ("no-cpu-limit", LOCAL, put(GATEWAY, f"{APP} resources limits cpu", "1")),
        ("pinned-images", LOCAL, put("StatefulSet/postgres", f"{APP} image", "registry.example.com:5000/postgres")),
        ("pinned-images", LOCAL, put(GATEWAY, f"{APP} image", "shop-gateway:latest")),
        ("no-token", LOCAL, drop(GATEWAY, f"{TEMPLATE} automountServiceAccountToken")),
        ("no-token", LOCAL, drop("ServiceAccount/gateway", "automountServiceAccountToken")),
        ("own-account", LOCAL, put(GATEWAY, f"{TEMPLATE} serviceAccountName", "users")),
        ("own-account", LOCAL, drop(GATEWAY, f"{TEMPLATE} serviceAccountName")),
        ("no-service-links", LOCAL, drop("StatefulSet/mongo", f"{TEMPLATE} enableServiceLinks")),
        ("probes", LOCAL, drop(WORKER, f"{APP} startupProbe")),
        ("probes", LOCAL, put(GATEWAY, f"{APP} livenessProbe httpGet path", "/readyz")),
        ("probes", LOCAL, put(GATEWAY, f"{APP} readinessProbe httpGet path", "/livez")),
        ("others-probes", LOCAL, drop("StatefulSet/kafka", f"{APP} readinessProbe")),
        # rollout
        ("rolling-update", PRODUCTION, put(GATEWAY, "spec strategy rollingUpdate maxUnavailable", 1)),
        ("rolling-update", PRODUCTION, drop(GATEWAY, "spec minReadySeconds")),
        ("rollout-bounds", PRODUCTION, drop(GATEWAY, "spec revisionHistoryLimit")),
        ("rollout-bounds", PRODUCTION, drop(GATEWAY, "spec progressDeadlineSeconds")),
        ("goes-quietly", PRODUCTION, drop(GATEWAY, f"{APP} lifecycle")),
        ("goes-quietly", PRODUCTION, put("ConfigMap/users-config*", "data USERS_HTTP__DRAIN_SECONDS", "0")),
        ("grace-period", PRODUCTION, put(GATEWAY, f"{TEMPLATE} terminationGracePeriodSeconds", 34)),
        ("grace-period", PRODUCTION, put(WORKER, f"{TEMPLATE} terminationGracePeriodSeconds", 60)),
        ("grace-period", PRODUCTION, put("ConfigMap/orders-config*", "data ORDERS_HTTP__GRACEFUL_SECONDS", "60")),
        ("spread", PRODUCTION, drop(GATEWAY, f"{TEMPLATE} topologySpreadConstraints 0")),
        ("anti-affinity", PRODUCTION, drop(GATEWAY, f"{TEMPLATE} affinity")),
        ("disruption-budget", PRODUCTION, remove("PodDisruptionBudget/gateway")),
        ("disruption-budget", PRODUCTION, drop("PodDisruptionBudget/gateway", "spec unhealthyPodEvictionPolicy")),
        ("disruption-budget", PRODUCTION, put("PodDisruptionBudget/gateway", "spec maxUnavailable", 0)),
        ("job-bounds", LOCAL, drop(MIGRATE, "spec activeDeadlineSeconds")),
        ("job-bounds", LOCAL, drop("Job/topics", "spec ttlSecondsAfterFinished")),
        # scaling
        ("one-autoscaler", PRODUCTION, add("HorizontalPodAutoscaler", "two", "autoscaling/v2", spec=AUTOSCALER)),
        ("one-autoscaler", PRODUCTION, remove("HorizontalPodAutoscaler/users")),
        (
            "one-autoscaler",
            PRODUCTION,
            put("HorizontalPodAutoscaler/users", "spec scaleTargetRef name", "users-worker"),
        ),
        ("keda-scales-workers", PRODUCTION, remove("ScaledObject/users-worker")),
        ("replicas-have-one-owner", PRODUCTION, put(WORKER, "spec replicas", 2)),
        ("replicas-have-one-owner", "datastores-dev", put("Deployment/users", "spec replicas", 2)),
        ("autoscaler-bounds", PRODUCTION, put("HorizontalPodAutoscaler/users", "spec minReplicas", 1)),
        ("autoscaler-bounds", PRODUCTION, put("ScaledObject/users-worker", "spec maxReplicaCount", 2)),
        ("within-partitions", PRODUCTION, put("ScaledObject/users-worker", "spec maxReplicaCount", 13)),
        ("within-partitions", LOCAL, put(WORKER, "spec replicas", 13)),
        ("autoscaler-behaviour", PRODUCTION, drop("HorizontalPodAutoscaler/users", "spec behavior scaleUp")),
        ("autoscaler-behaviour", PRODUCTION, drop("Deployment/users", f"{APP} resources requests cpu")),
        ("keda-triggers", PRODUCTION, put("ScaledObject/users-worker", "spec triggers 0 metadata consumerGroup", "x")),
        ("keda-triggers", PRODUCTION, put("ScaledObject/users-worker", "spec triggers 0 metadata topic", "x")),
        # objects
        ("one-namespace", PRODUCTION, put(GATEWAY, "metadata namespace", "default")),
        ("restricted-namespace", PRODUCTION, put("Namespace/shop", "metadata labels", {})),
        ("labels", PRODUCTION, drop("Service/gateway", "metadata labels app.kubernetes.io/part-of")),
        ("labels", PRODUCTION, drop(GATEWAY, "spec template metadata labels app.kubernetes.io/component")),
        ("narrow-selectors", PRODUCTION, put(GATEWAY, "spec selector matchLabels app.kubernetes.io/part-of", "shop")),
        ("complete", PRODUCTION, remove("Deployment/orders-worker")),
        ("complete", PRODUCTION, drop(GATEWAY, f"{APP} command")),
        ("unique", PRODUCTION, lambda build: build.objects.append(find(build, "Service/users"))),
        ("topics", PRODUCTION, remove("KafkaTopic/users-mail.dlq")),
        ("topics", PRODUCTION, put("KafkaTopic/users.events.v1", "spec partitions", 6)),
        ("topics", PRODUCTION, put("KafkaTopic/users.events.v1", "spec config retention.ms", 604800000)),
        ("topics", LOCAL, remove("Job/topics")),
        # configuration
        ("settings", LOCAL, put("ConfigMap/users-config*", "data USERS_POSTGRE__DSN", "postgresql://x/y")),
        ("settings", LOCAL, put("ConfigMap/users-config*", "data USERS_HTTP__PROT", "8001")),
        ("settings", LOCAL, put("ConfigMap/users-config*", "data LOG_LEVEL", "INFO")),
        ("settings", LOCAL, put("ConfigMap/users-config*", "data USERS_HTTP__PORT", "eighty")),
        ("settings", LOCAL, drop("ConfigMap/gateway-config*", "data GATEWAY_ORDERS_URL")),
        ("settings", PRODUCTION, drop("Deployment/orders", f"{TEMPLATE} volumes")),
        ("settings", LOCAL, put(MIGRATE, f"{APP} command 2", "shop_users.elsewhere")),
        ("listens", LOCAL, put("ConfigMap/users-config*", "data USERS_HTTP__HOST", "127.0.0.1")),
        ("listens", LOCAL, put("ConfigMap/gateway-config*", "data GATEWAY_HTTP__METRICS_PORT", "8011")),
        ("hashed-configuration", LOCAL, put(GATEWAY, f"{APP} envFrom 0 configMapRef name", "gateway-config")),
        ("secrets-are-files", LOCAL, append(GATEWAY, f"{APP} envFrom", {"secretRef": {"name": "users-secrets"}})),
        ("secrets-are-files", LOCAL, put("ConfigMap/users-config*", "data USERS_CURSOR_KEY", "k" * 40)),
        (
            "secrets-are-files",
            LOCAL,
            put("ConfigMap/mongo-address*", "data MONGO__URL", "mongodb://u:p@mongo:27017"),
        ),
        (
            "secrets-are-files",
            LOCAL,
            append(GATEWAY, f"{APP} env", {"name": "X", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}),
        ),
        ("secrets-are-read-only", LOCAL, drop("StatefulSet/postgres", f"{APP} volumeMounts 1 readOnly")),
        ("no-secret-in-manifests", PRODUCTION, add("Secret", "users-secrets", stringData={"users_cursor_key": "x"})),
        ("no-secret-in-manifests", LOCAL, add("Secret", "users-secrets", stringData={"users_cursor_key": "x"})),
        (
            "own-secrets",
            PRODUCTION,
            append(GATEWAY, f"{TEMPLATE} volumes", {"name": "x", "secret": {"secretName": "users-secrets"}}),
        ),
        (
            "own-secrets",
            PRODUCTION,
            append("Deployment/users", f"{TEMPLATE} volumes", {"name": "x", "secret": {"secretName": "users-admin"}}),
        ),
        # network
        ("default-deny", PRODUCTION, put("NetworkPolicy/default-deny", "spec policyTypes", ["Ingress"])),
        ("dns", PRODUCTION, drop("NetworkPolicy/towards-dns", "spec egress 0 ports 1")),
        ("named-peers", PRODUCTION, drop("NetworkPolicy/into-users", "spec ingress 0 from")),
        ("named-peers", PRODUCTION, drop("NetworkPolicy/into-users", "spec ingress 0 ports")),
        ("named-peers", PRODUCTION, append("NetworkPolicy/into-users", "spec ingress 0 from", {"podSelector": {}})),
        ("named-peers", PRODUCTION, put("NetworkPolicy/towards-smtp", "spec egress 0 ports 0 port", 5432)),
        ("peers-exist", PRODUCTION, append("NetworkPolicy/into-users", "spec ingress 0 from", PEER)),
        ("peers-exist", PRODUCTION, put("NetworkPolicy/into-users", "spec podSelector matchLabels", {NAME: "user"})),
        ("edges-are-open", PRODUCTION, remove("NetworkPolicy/towards-users")),
        ("edges-are-open", PRODUCTION, put("NetworkPolicy/into-kafka", "spec ingress 0 ports 0 port", 9093)),
        ("edges-are-open", LOCAL, remove("NetworkPolicy/into-mongo")),
        ("no-other-edges", PRODUCTION, put("NetworkPolicy/into-postgres", "spec ingress 0 from 0 podSelector", {})),
        ("no-other-edges", LOCAL, put("NetworkPolicy/towards-redis", "spec podSelector", {})),
        # references
        ("accounts-exist", PRODUCTION, remove("ServiceAccount/users")),
        ("config-maps-exist", PRODUCTION, remove("ConfigMap/kafka-address*")),
        ("secrets-exist", PRODUCTION, remove("ExternalSecret/users-secrets")),
        ("secrets-exist", PRODUCTION, put("ExternalSecret/users-secrets", "spec data 0 secretKey", "cursor_key")),
        ("policy-ports-exist", PRODUCTION, put(GATEWAY, f"{APP} ports 1 name", "numbers")),
        ("operators-secrets-exist", PRODUCTION, remove("ExternalSecret/users-postgres")),
        (
            "operators-secrets-exist",
            PRODUCTION,
            put("PerconaServerMongoDB/mongo", "spec users 0 passwordSecretRef key", "x"),
        ),
        ("kafka-exists", PRODUCTION, drop("KafkaTopic/users-mail.dlq", "metadata labels strimzi.io/cluster")),
        (
            "claims-exist",
            LOCAL,
            append(GATEWAY, f"{TEMPLATE} volumes", {"name": "x", "persistentVolumeClaim": {"claimName": "none"}}),
        ),
        ("ports-exist", PRODUCTION, put(GATEWAY, f"{APP} ports 0 name", "web")),
        ("ports-exist", LOCAL, put("Service/gateway", "spec ports 0 targetPort", 8001)),
        ("services-select", PRODUCTION, put("Service/users", "spec selector", {NAME: "user"})),
        ("services-select", PRODUCTION, put("Service/users", "spec selector", {"app.kubernetes.io/part-of": "shop"})),
        ("budgets-select", PRODUCTION, put("PodDisruptionBudget/users", "spec selector matchLabels", {NAME: "user"})),
        ("workloads-select", PRODUCTION, put("Deployment/users", "spec selector matchLabels", {NAME: "user"})),
        ("autoscalers-aim", PRODUCTION, put("HorizontalPodAutoscaler/users", "spec scaleTargetRef name", "user")),
        ("autoscalers-aim", PRODUCTION, put("ScaledObject/users-worker", "spec scaleTargetRef name", "worker")),
        (
            "autoscalers-aim",
            PRODUCTION,
            put("ScaledObject/users-worker", "spec triggers 0 metadata bootstrapServers", "kafka:9092"),
        ),
        ("pod-monitors-select", PRODUCTION, put("PodMonitor/gateway", "spec selector matchLabels", {NAME: "gate"})),
        (
            "pod-monitors-select",
            PRODUCTION,
            put("PodMonitor/gateway", "spec podMetricsEndpoints 0 port", "http-metrics"),
        ),
        (
            "service-monitors-select",
            PRODUCTION,
            add("ServiceMonitor", "x", "monitoring.coreos.com/v1", spec={"selector": {"matchLabels": {NAME: "gate"}}}),
        ),
        ("everybody-is-monitored", PRODUCTION, remove("PodMonitor/gateway")),
        ("routes-lead", PRODUCTION, put("HTTPRoute/gateway", "spec rules 0 backendRefs 0 name", "gate")),
        ("routes-lead", PRODUCTION, put("HTTPRoute/gateway", "spec rules 0 backendRefs 0 port", 8000)),
        ("routes-lead", PRODUCTION, put("HTTPRoute/gateway", "spec parentRefs 0 name", "private")),
        ("routes-lead", "ingress", put("Ingress/gateway", "spec rules 0 http paths 0 backend service name", "gate")),
        ("stores-exist", PRODUCTION, put("ExternalSecret/users-secrets", "spec secretStoreRef name", "vault")),
        (
            "addresses-exist",
            PRODUCTION,
            put("ConfigMap/gateway-config*", "data GATEWAY_USERS_URL", "http://user:8001"),
        ),
        (
            "addresses-exist",
            PRODUCTION,
            put("ConfigMap/gateway-config*", "data GATEWAY_USERS_URL", "http://users:80"),
        ),
        ("addresses-exist", LOCAL, remove("Deployment/redis")),
    )
]


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=[f"{number}-{mutation.policy}" for number, mutation in enumerate(MUTATIONS)]
)
def test_a_policy_notices(mutation: Mutation, own_copy: Callable[[str], Build]) -> None:
    examine = POLICIES[mutation.policy].examine
    assert list(examine(own_copy(mutation.build))) == []
    broken = own_copy(mutation.build)
    mutation.change(broken)
    assert list(examine(Build(broken.name, broken.objects))) != []


def test_every_policy_has_a_mutation() -> None:
    assert {mutation.policy for mutation in MUTATIONS} == set(POLICIES)
