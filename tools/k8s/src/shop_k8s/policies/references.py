"""Every name that one object uses for another leads somewhere. No schema and no API server looks at that."""

from collections.abc import Iterator

from shop_k8s.addresses import addresses, addresses_in, ends, service_name, targets
from shop_k8s.environment import secret_sources
from shop_k8s.model import ANY_KEY, Build, Object, Pod, dig, many, ref, selects
from shop_k8s.operators import GATEWAYS, SECRET_STORES, TLS_SECRETS, made_secrets
from shop_k8s.policy import Complaints, policy


@policy("Each pod's ServiceAccount is there.")
def accounts_exist(build: Build) -> Complaints:
    for pod in build.pods:
        name = pod.spec.get("serviceAccountName")
        if name and not build.find("ServiceAccount", name):
            yield pod.name, f"there is no ServiceAccount {name}"


def _config_map_uses(pod: Pod) -> Iterator[tuple[str, list[str]]]:
    for container in pod.containers:
        for source in many(container, "envFrom"):
            if "configMapRef" in source:
                yield source["configMapRef"]["name"], []
        for variable in many(container, "env"):
            key = dig(variable, "valueFrom", "configMapKeyRef")
            if key:
                yield key["name"], [key["key"]]
    for volume in many(pod.spec, "volumes"):
        for source in (volume, *many(volume, "projected", "sources")):
            if "configMap" in source:
                yield source["configMap"]["name"], [item["key"] for item in many(source, "configMap", "items")]


@policy("Each ConfigMap that a pod uses is there, with the keys it uses.")
def config_maps_exist(build: Build) -> Complaints:
    for pod in build.pods:
        for name, keys in _config_map_uses(pod):
            found = build.find("ConfigMap", name)
            if found is None:
                yield pod.name, f"there is no ConfigMap {name}"
                continue
            for key in keys:
                if key not in {**(found.get("data") or {}), **(found.get("binaryData") or {})}:
                    yield pod.name, f"ConfigMap {name} has no key {key}"


@policy("Each Secret that a pod mounts is made by something, with the keys it mounts.")
def secrets_exist(build: Build) -> Complaints:
    for pod in build.pods:
        for _, name, items in secret_sources(pod):
            keys = build.secret_keys(name)
            if keys is None and name in made_secrets(build):
                continue
            if keys is None:
                yield pod.name, f"nothing makes Secret {name}"
                continue
            for item in items:
                if item["key"] not in keys and ANY_KEY not in keys:
                    yield pod.name, f"Secret {name} has no key {item['key']}"


@policy("Each Secret that a database operator is told to use is made by something, with the key.")
def operators_secrets_exist(build: Build) -> Complaints:
    used = [(found, dig(found, "spec", "bootstrap", "initdb", "secret")) for found in build.of("Cluster")]
    for found in build.of("PerconaServerMongoDB"):
        used += [(found, user.get("passwordSecretRef")) for user in many(found, "spec", "users")]
    for found, secret in used:
        keys = build.secret_keys(dig(secret, "name"))
        if keys is None:
            yield ref(found), f"nothing makes Secret {dig(secret, 'name')}"
        elif dig(secret, "key") and not {dig(secret, "key"), ANY_KEY} & keys:
            yield ref(found), f"Secret {dig(secret, 'name')} has no key {dig(secret, 'key')}"


@policy("Each object of Strimzi's names a Kafka that is there.")
def kafka_exists(build: Build) -> Complaints:
    for found in build.of("KafkaNodePool", "KafkaTopic"):
        name = dig(found, "metadata", "labels", "strimzi.io/cluster")
        if not build.find("Kafka", name):
            yield ref(found), f"there is no Kafka {name}; label it strimzi.io/cluster"


@policy("Each claim that a pod mounts is there.")
def claims_exist(build: Build) -> Complaints:
    for pod in build.pods:
        for volume in many(pod.spec, "volumes"):
            name = dig(volume, "persistentVolumeClaim", "claimName")
            if name and not build.find("PersistentVolumeClaim", name):
                yield pod.name, f"there is no PersistentVolumeClaim {name}"


@policy("Each port that a probe or a Service names is one of the pods'.")
def ports_exist(build: Build) -> Complaints:
    for pod in build.pods:
        for container in pod.containers:
            own = {port.get("name") for port in many(container, "ports")}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    port = dig(container, probe, how, "port")
                    if isinstance(port, str) and port not in own:
                        yield pod.name, f"{probe} asks port {port}, which the container does not have"
    for service in build.of("Service"):
        selector = dig(service, "spec", "selector")
        for pod in build.pods_of({"matchLabels": selector}) if selector else []:
            for port in many(service, "spec", "ports"):
                target = port.get("targetPort", port["port"])
                if target not in pod.ports and target not in pod.ports.values():
                    yield ref(service), f"targetPort {target} is no port of {pod.name}"


@policy("Each port that a NetworkPolicy names is one of the pods' it is for.")
def policy_ports_exist(build: Build) -> Complaints:
    everyone = ends(build)
    for rules in build.of("NetworkPolicy"):
        for rule in many(rules, "spec", "ingress"):
            names = [port["port"] for port in many(rule, "ports") if isinstance(port.get("port"), str)]
            for end in everyone:
                if selects(rules["spec"].get("podSelector"), end.labels):
                    for name in names:
                        if name not in end.ports:
                            yield ref(rules), f"port {name} is none of {end.name}"


@policy("Each Service selects the pods of exactly one workload.")
def services_select(build: Build) -> Complaints:
    for service in build.of("Service"):
        selector = dig(service, "spec", "selector")
        found = build.pods_of({"matchLabels": selector}) if selector else []
        if len(found) != 1:
            yield ref(service), f"selects {', '.join(pod.name for pod in found) or 'no pod'}; it must be one workload"


@policy("Each PodDisruptionBudget selects the pods of exactly one workload.")
def budgets_select(build: Build) -> Complaints:
    for budget in build.of("PodDisruptionBudget"):
        found = build.pods_of(dig(budget, "spec", "selector"))
        if len(found) != 1:
            yield ref(budget), f"selects {', '.join(pod.name for pod in found) or 'no pod'}; it must be one workload"


@policy("Each workload selects its own pods and no others'.")
def workloads_select(build: Build) -> Complaints:
    for owner in build.of("Deployment", "StatefulSet", "DaemonSet"):
        found = [pod.name for pod in build.pods_of(dig(owner, "spec", "selector"))]
        if found != [ref(owner)]:
            yield ref(owner), f"its selector fits {', '.join(found) or 'no pod'}; it must fit its own pods alone"


@policy("Each autoscaler's target is there, and so is what a ScaledObject authenticates and asks with.")
def autoscalers_aim(build: Build) -> Complaints:
    for scaler in build.autoscalers:
        target = build.target_of(scaler)
        if target is None:
            yield ref(scaler), f"its target {dig(scaler, 'spec', 'scaleTargetRef')} is not there"
        for trigger in many(scaler, "spec", "triggers"):
            name = dig(trigger, "authenticationRef", "name")
            if name and not build.find("TriggerAuthentication", name):
                yield ref(scaler), f"there is no TriggerAuthentication {name}"
            for host, port in addresses_in(str(dig(trigger, "metadata", "bootstrapServers") or "")):
                service = targets(build).get(service_name(host) or "")
                if service is None or port not in service.ports:
                    yield ref(scaler), f"{host}:{port} is no Service; it is asked for the lag"


@policy("Each PodMonitor selects a pod, and asks ports that it has.")
def pod_monitors_select(build: Build) -> Complaints:
    for monitor in build.of("PodMonitor"):
        pods = build.pods_of(dig(monitor, "spec", "selector"))
        if not pods:
            yield ref(monitor), "selects no pod"
        for endpoint in many(monitor, "spec", "podMetricsEndpoints"):
            for pod in pods:
                if endpoint.get("port") not in pod.ports:
                    yield ref(monitor), f"port {endpoint.get('port')} is none of {pod.name}"


@policy("Each ServiceMonitor selects a Service, and asks ports that it has.")
def service_monitors_select(build: Build) -> Complaints:
    for monitor in build.of("ServiceMonitor"):
        services = [
            s for s in build.of("Service") if selects(dig(monitor, "spec", "selector"), s["metadata"]["labels"])
        ]
        if not services:
            yield ref(monitor), "selects no Service"
        for endpoint in many(monitor, "spec", "endpoints"):
            for service in services:
                if endpoint.get("port") not in {port.get("name") for port in many(service, "spec", "ports")}:
                    yield ref(monitor), f"port {endpoint.get('port')} is none of {ref(service)}"


@policy("Each workload of ours is asked for its metrics where there are monitors.")
def everybody_is_monitored(build: Build) -> Complaints:
    monitors = build.of("PodMonitor")
    if not monitors:
        return
    for pod in build.workloads:
        if not any(selects(dig(monitor, "spec", "selector"), pod.labels) for monitor in monitors):
            yield pod.name, "no PodMonitor selects it"


@policy(
    "Each route leads to a port of a Service that is there, from a Gateway that is there, with certificates that are."
)
def routes_lead(build: Build) -> Complaints:
    for route in build.of("HTTPRoute"):
        for parent in many(route, "spec", "parentRefs"):
            own = build.find("Gateway", parent.get("name"))
            if own is None and (parent.get("namespace"), parent.get("name")) not in GATEWAYS:
                yield ref(route), f"there is no Gateway {parent.get('namespace')}/{parent.get('name')}"
        for rule in many(route, "spec", "rules"):
            for backend in many(rule, "backendRefs"):
                yield from _backend(build, route, backend.get("name"), backend.get("port"))
    for ingress in build.of("Ingress"):
        paths = [path for rule in many(ingress, "spec", "rules") for path in many(rule, "http", "paths")]
        for backend in [dig(path, "backend", "service") for path in paths]:
            port = dig(backend, "port", "number") or dig(backend, "port", "name")
            yield from _backend(build, ingress, dig(backend, "name"), port)
        for tls in many(ingress, "spec", "tls"):
            if tls.get("secretName") not in TLS_SECRETS:
                yield ref(ingress), f"nothing makes Secret {tls.get('secretName')}"


def _backend(build: Build, route: Object, name: str | None, port: object) -> Complaints:
    service = build.find("Service", name)
    if service is None:
        yield ref(route), f"there is no Service {name}"
    elif not any(port in {entry["port"], entry.get("name")} for entry in many(service, "spec", "ports")):
        yield ref(route), f"Service {name} has no port {port}"


@policy("Each ExternalSecret asks a store of the platform.")
def stores_exist(build: Build) -> Complaints:
    for external in build.of("ExternalSecret"):
        store = dig(external, "spec", "secretStoreRef", "name")
        if store not in SECRET_STORES:
            yield (
                ref(external),
                f"there is no ClusterSecretStore {store}; {', '.join(sorted(SECRET_STORES))} is the one",
            )


@policy("Each address that a configuration names is a Service, and its port one that the Service has.")
def addresses_exist(build: Build) -> Complaints:
    known = targets(build)
    for pod in build.pods:
        for host, port in sorted(addresses(build, pod)):
            if host not in known:
                yield pod.name, f"its configuration names {host}:{port}; there is no Service {host}"
            elif port not in known[host].ports:
                yield pod.name, f"its configuration names {host}:{port}; Service {host} has {sorted(known[host].ports)}"
            elif not known[host].ends:
                yield pod.name, f"its configuration names {host}:{port}; no pod is behind Service {host}"
