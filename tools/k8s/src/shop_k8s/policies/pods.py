"""Every pod: what its containers may do, what they may use, what is looked at while they run."""

from collections.abc import Iterator

from shop_k8s.model import Build, Object, Pod, dig, many
from shop_k8s.policy import Complaints, policy

MIN_ID = 10_000


def _containers(build: Build) -> Iterator[tuple[Pod, Object, str]]:
    for pod in build.pods:
        for container in pod.containers:
            yield pod, container, f"{pod.name} container {container['name']}"


def _security(pod: Pod, container: Object, field: str) -> object:
    """A container's word counts, else its pod's."""
    own = dig(container, "securityContext", field)
    return dig(pod.spec, "securityContext", field) if own is None else own


@policy("Every container runs as a user and a group of 10000 or above, and may not run as root.")
def ordinary_user(build: Build) -> Complaints:
    for pod, container, where in _containers(build):
        if _security(pod, container, "runAsNonRoot") is not True:
            yield where, "set securityContext.runAsNonRoot: true"
        for field in ("runAsUser", "runAsGroup"):
            value = _security(pod, container, field)
            if not isinstance(value, int) or value < MIN_ID:
                yield where, f"set securityContext.{field} to {MIN_ID} or more"


@policy("Every container has the seccomp profile RuntimeDefault.")
def seccomp(build: Build) -> Complaints:
    for pod, container, where in _containers(build):
        if dig(_security(pod, container, "seccompProfile"), "type") != "RuntimeDefault":
            yield where, "set securityContext.seccompProfile.type: RuntimeDefault"


@policy("No container may gain privileges: no escalation, not privileged, every capability dropped and none added.")
def privileges(build: Build) -> Complaints:
    for _, container, where in _containers(build):
        context = container.get("securityContext") or {}
        if context.get("allowPrivilegeEscalation") is not False:
            yield where, "set securityContext.allowPrivilegeEscalation: false"
        if context.get("privileged"):
            yield where, "remove securityContext.privileged"
        if dig(context, "capabilities", "drop") != ["ALL"] or dig(context, "capabilities", "add"):
            yield where, "set securityContext.capabilities to {drop: [ALL]}"


@policy("No pod shares anything with its node: no host network, ports, processes or paths.")
def host(build: Build) -> Complaints:
    for pod in build.pods:
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(field):
                yield pod.name, f"remove {field}"
        for volume in many(pod.spec, "volumes"):
            if "hostPath" in volume:
                yield pod.name, f"volume {volume['name']}: no hostPath; take an emptyDir or a claim"
    for _, container, where in _containers(build):
        if any("hostPort" in port for port in many(container, "ports")):
            yield where, "remove hostPort; a Service reaches it"


@policy("Every container's root file system is read-only; ours have an emptyDir with a limit at /tmp.")
def read_only_root(build: Build) -> Complaints:
    for pod, container, where in _containers(build):
        if dig(container, "securityContext", "readOnlyRootFilesystem") is not True:
            yield where, "set securityContext.readOnlyRootFilesystem: true"
        if pod.is_ours:
            volumes = {volume["name"]: volume for volume in many(pod.spec, "volumes")}
            mounts = {mount["mountPath"]: mount["name"] for mount in many(container, "volumeMounts")}
            if not dig(volumes.get(mounts.get("/tmp", "")), "emptyDir", "sizeLimit"):  # noqa: S108 - the container's
                yield where, "mount an emptyDir with a sizeLimit at /tmp"


@policy("Every container requests CPU, memory and ephemeral storage, and has limits of the latter two.")
def resources(build: Build) -> Complaints:
    for _, container, where in _containers(build):
        for kind, names in (
            ("requests", ("cpu", "memory", "ephemeral-storage")),
            ("limits", ("memory", "ephemeral-storage")),
        ):
            for name in names:
                if not dig(container, "resources", kind, name):
                    yield where, f"set resources.{kind}.{name}"


@policy("None of our containers has a CPU limit, which would halt an event loop for tens of milliseconds at a time.")
def no_cpu_limit(build: Build) -> Complaints:
    for pod in build.ours:
        for container in pod.containers:
            if dig(container, "resources", "limits", "cpu"):
                yield f"{pod.name} container {container['name']}", "remove resources.limits.cpu"


@policy("Every image has a tag other than latest, or a digest.")
def pinned_images(build: Build) -> Complaints:
    for _, container, where in _containers(build):
        image = str(container.get("image", ""))
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        if "@sha256:" not in image and tag in {"", "latest"}:
            yield where, f"give image {image or '(none)'} a fixed tag or a digest"


@policy("No pod mounts a token of the API server, neither by its own word nor by its ServiceAccount's.")
def no_token(build: Build) -> Complaints:
    for pod in build.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield pod.name, "set automountServiceAccountToken: false in the pod's spec"
    for account in build.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount/{account['metadata']['name']}", "set automountServiceAccountToken: false"


@policy("Every pod has a ServiceAccount of its own: not `default`, and not another workload's.")
def own_account(build: Build) -> Complaints:
    owners: dict[str, str] = {}
    for pod in build.pods:
        account = pod.spec.get("serviceAccountName") or "default"
        if account == "default":
            yield pod.name, "name a ServiceAccount of its own in serviceAccountName"
        elif owners.setdefault(account, pod.name) != pod.name:
            yield pod.name, f"ServiceAccount {account} is that of {owners[account]}; give it one of its own"


@policy("No pod gets variables made of the names of Services, which would fall among its own settings.")
def no_service_links(build: Build) -> Complaints:
    for pod in build.pods:
        if pod.spec.get("enableServiceLinks") is not False:
            yield pod.name, "set enableServiceLinks: false"


@policy(
    "Every workload of ours has startup and liveness probes at /livez and a readiness probe at /readyz, by port name."
)
def probes(build: Build) -> Complaints:
    paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    for pod in build.workloads:
        for probe, path in paths.items():
            asked = dig(pod.main, probe, "httpGet")
            if dig(asked, "path") != path or dig(asked, "port") != "http":
                yield pod.name, f"set {probe}.httpGet to path {path}, port http"


@policy("Every Deployment of others that a Service leads to has a readiness probe.")
def others_probes(build: Build) -> Complaints:
    for service in build.of("Service"):
        for pod in build.pods_of(dig(service, "spec", "selector") and {"matchLabels": service["spec"]["selector"]}):
            if not pod.is_ours and not any("readinessProbe" in container for container in pod.containers):
                yield pod.name, "give it a readinessProbe: a Service leads to it"
