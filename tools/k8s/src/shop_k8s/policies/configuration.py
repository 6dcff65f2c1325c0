"""What processes are told: settings that exist, that suffice, that roll out, and secrets that stay files."""

import re

from shop_k8s.environment import complaints, secret_sources, settings_of, shown_secret, told, variables
from shop_k8s.model import Build, Object, Pod, dig, many, ref
from shop_k8s.policy import Complaints, policy

_HASH = re.compile(r"-[bcdfghkmt2456789]{10}$")
_SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|CURSOR_KEY)$")


@policy(
    "Each variable and secret file of a process is a field of its settings; each required one is set, each value valid."
)
def settings(build: Build) -> Complaints:
    for pod in build.ours:
        for complaint in complaints(told(build, pod)):
            yield pod.name, complaint


@policy("A process listens on its pod's address, and on exactly the ports that its container declares.")
def listens(build: Build) -> Complaints:
    for pod in build.workloads:
        found = settings_of(build, pod)
        if found is None:
            continue  # `settings` says why
        if found.http.host != "0.0.0.0":  # noqa: S104 - a pod's network is its own
            yield pod.name, f"set …HTTP__HOST to 0.0.0.0; {found.http.host} is not reached from outside the pod"
        wanted = {"http": found.http.port}
        if found.http.metrics_port is not None:
            wanted["metrics"] = found.http.metrics_port
        if pod.ports != wanted:
            yield pod.name, f"declare the container's ports as {wanted}, which is where it listens"


def _config_maps(pod: Pod) -> list[str]:
    names = [dig(source, "configMapRef", "name") for c in pod.containers for source in many(c, "envFrom")]
    names += [dig(v, "valueFrom", "configMapKeyRef", "name") for c in pod.containers for v in many(c, "env")]
    for volume in many(pod.spec, "volumes"):
        names.append(dig(volume, "configMap", "name"))
        names += [dig(source, "configMap", "name") for source in many(volume, "projected", "sources")]
    return [name for name in names if name]


@policy("A pod's ConfigMaps have their content's hash in their names, so that a change rolls out.")
def hashed_configuration(build: Build) -> Complaints:
    for pod in build.pods:
        for name in sorted(set(_config_maps(pod))):
            if not _HASH.search(name):
                yield pod.name, f"make ConfigMap {name} with a configMapGenerator, without disableNameSuffixHash"


@policy("No secret is a variable: none comes from a Secret, none stands in a ConfigMap or a manifest.")
def secrets_are_files(build: Build) -> Complaints:
    for pod in build.pods:
        for container in pod.containers:
            if any("secretRef" in source for source in many(container, "envFrom")):
                yield pod.name, "envFrom a Secret; mount it as files"
            for variable in many(container, "env"):
                if dig(variable, "valueFrom", "secretKeyRef"):
                    yield pod.name, f"{variable['name']} comes from a Secret; mount it as a file"
            process = told(build, pod)
            for name, value in variables(build, container).items():
                if shown_secret(process, name, value) or (value and _SECRET_NAME.search(name)):
                    yield pod.name, f"{name} is a secret in a variable; mount it as a file"


@policy("Secrets are mounted read-only.")
def secrets_are_read_only(build: Build) -> Complaints:
    for pod in build.pods:
        volumes = {volume for volume, _, _ in secret_sources(pod)}
        for container in pod.containers:
            for mount in many(container, "volumeMounts"):
                if mount["name"] in volumes and mount.get("readOnly") is not True:
                    yield pod.name, f"mount {mount['mountPath']} with readOnly: true"


@policy("No build but the local one holds a Secret, and that one only generated ones.")
def no_secret_in_manifests(build: Build) -> Complaints:
    for secret in build.of("Secret"):
        if not build.is_local:
            yield ref(secret), "remove it; an ExternalSecret makes it"
        elif not _HASH.search(secret["metadata"]["name"]):
            yield ref(secret), "make it with a secretGenerator"


@policy("A pod gets secrets of its own service alone, and the administrator's password only the migration.")
def own_secrets(build: Build) -> Complaints:
    for pod in build.ours:
        service = _service(pod.owner)
        for _, name, _ in secret_sources(pod):
            if service and not name.startswith(f"{service}-") and not name.endswith(("-ca", "-ssl")):
                yield pod.name, f"Secret {name} is not its own; remove it"
            if name.startswith("users-admin") and pod.owner["metadata"]["name"] != "users-migrate":
                yield pod.name, f"Secret {name} is the migration's; remove it"


def _service(owner: Object) -> str:
    return str(owner["metadata"]["name"]).partition("-")[0]
