"""Whom pods talk to by their own configuration, and what NetworkPolicies let through."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shop_k8s.environment import secret_sources, variables
from shop_k8s.model import NAMESPACE, Build, Object, Pod, dig, many, module_of, selects
from shop_k8s.operators import STORE, made_pods, made_services

_URL = re.compile(r"\b[a-z][a-z0-9+.]*://[^\s\"'`<>]+")
_HOST_PORT = re.compile(r"(?<![\w.:/-])([a-z][a-z0-9.-]*):(\d{2,5})(?![\w.])")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TEMPLATED = re.compile(r"\{\{[^}]*\}\}")
UNOPENED = {"shop_users.app": {"kafka"}, "shop_orders.app": {"kafka"}, "shop_orders.worker": {"tokens"}}
"""Module → settings that it requires, since its service's processes share a class, of servers it never talks to."""


@dataclass(frozen=True, slots=True)
class End:
    """Pods as a NetworkPolicy sees them."""

    name: str
    labels: dict[str, str] = field(hash=False)
    ports: dict[str, int] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Target:
    """A Service of the build or of an operator: port → the port of the pods behind it."""

    name: str
    ends: tuple[End, ...]
    ports: dict[int, int] = field(hash=False)


def ends(build: Build) -> list[End]:
    own = [End(pod.name, pod.labels, pod.ports) for pod in build.pods]
    return own + [End(name, labels, {}) for name, labels in made_pods(build)]


def targets(build: Build) -> dict[str, Target]:
    found: dict[str, Target] = {}
    everyone = ends(build)
    for service in build.of("Service"):
        selector = dig(service, "spec", "selector")
        behind = tuple(end for end in everyone if selector and selects({"matchLabels": selector}, end.labels))
        ports = {}
        for port in many(service, "spec", "ports"):
            wanted = port.get("targetPort", port["port"])
            ports[port["port"]] = (
                (behind[0].ports.get(wanted, 0) if behind else 0) if isinstance(wanted, str) else wanted
            )
        found[service["metadata"]["name"]] = Target(service["metadata"]["name"], behind, ports)
    for made in made_services(build):
        behind = tuple(end for end in everyone if end.labels.get(STORE) == made.store)
        found[made.name] = Target(made.name, behind, {port: port for port in made.ports})
    return found


def addresses(build: Build, pod: Pod) -> set[tuple[str, int]]:
    """Host and port of everything that its variables, arguments and configuration files name inside the cluster."""
    values = {name: value for name, value in variables(build, pod.main).items() if _is_used(pod, name)}
    names = {f"$({name})": value for name, value in variables(build, pod.main).items()}
    found = {(host, port) for host, port in _hosts_and_ports(values)}
    for text in (*values.values(), *(names.get(word, word) for word in pod.command), *_mounted(build, pod)):
        found |= set(addresses_in(text))
    return {(service, port) for host, port in found if (service := service_name(host))}


def _is_used(pod: Pod, name: str) -> bool:
    field = name.partition("_")[2].lower().partition("__")[0]
    return field not in UNOPENED.get(module_of(pod.command), set())


def _hosts_and_ports(values: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Of servers whose host and port are two variables."""
    for name, host in values.items():
        port = values.get(f"{name.removesuffix('HOST')}PORT", "")
        if name.endswith("__HOST") and port.isdigit():
            yield host, int(port)


def _mounted(build: Build, pod: Pod) -> Iterator[str]:
    """The texts of its configuration files, and of its secret files as far as an ExternalSecret's template has them."""
    for volume in many(pod.spec, "volumes"):
        data = dig(build.find("ConfigMap", dig(volume, "configMap", "name")), "data") or {}
        yield from map(str, data.values())
    for _, secret, items in secret_sources(pod):
        template = dig(build.find("ExternalSecret", secret), "spec", "target", "template", "data") or {}
        yield from (_TEMPLATED.sub("x", str(template.get(item["key"], ""))) for item in items)


def addresses_in(text: str) -> Iterator[tuple[str, int]]:
    for url in _URL.findall(text):
        parts = urlsplit(url)
        for host_port in parts.netloc.rpartition("@")[2].split(","):
            host, _, port = host_port.partition(":")
            yield host, int(port) if port.isdigit() else _DEFAULT_PORTS.get(parts.scheme, 0)
    for host, port in _HOST_PORT.findall(_URL.sub(" ", text)):
        yield host, int(port)


def service_name(host: str) -> str | None:
    """The Service of this namespace that a host name means; None for what is elsewhere."""
    name = host.removesuffix(".").removesuffix(".cluster.local").removesuffix(".svc").removesuffix(f".{NAMESPACE}")
    return None if not name or "." in name or name == "localhost" or not name[0].isalpha() else name


def edges(build: Build) -> set[tuple[str, str, int]]:
    """(pod, pod, port) for all that configurations name."""
    known = targets(build)
    return {
        (pod.name, end.name, known[host].ports[port])
        for pod in build.pods
        for host, port in addresses(build, pod)
        if host in known and port in known[host].ports
        for end in known[host].ends
    }


def rules_at(build: Build, end: End, direction: str) -> list[Object]:
    """The rules that let somebody into these pods (Ingress) or let them out (Egress)."""
    return [
        rule
        for policy in build.of("NetworkPolicy")
        if direction in policy["spec"].get("policyTypes", ["Ingress"])
        and selects(policy["spec"].get("podSelector"), end.labels)
        for rule in many(policy, "spec", direction.lower())
    ]


def lets_through(rules: list[Object], other: End, server: End, port: int) -> bool:
    """Whether any of one end's rules has the other end and the server's port."""
    return any(
        _is_peer(rule.get("from") or rule.get("to"), other) and _is_port(rule.get("ports"), server, port)
        for rule in rules
    )


def _is_peer(peers: list[Object] | None, end: End) -> bool:
    return not peers or any(
        "ipBlock" not in peer
        and selects(peer.get("podSelector", {}), end.labels)
        and selects(peer.get("namespaceSelector", {}), {"kubernetes.io/metadata.name": NAMESPACE})
        for peer in peers
    )


def _is_port(ports: list[Object] | None, target: End, port: int) -> bool:
    return not ports or any(
        target.ports.get(entry["port"]) == port if isinstance(entry.get("port"), str) else entry.get("port") == port
        for entry in ports
    )
