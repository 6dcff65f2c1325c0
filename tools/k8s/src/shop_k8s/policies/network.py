"""Who may talk to whom: nobody by default, then exactly those that a configuration names, at both ends."""

from collections.abc import Iterator
from itertools import product

from shop_k8s.addresses import End, edges, ends, lets_through, rules_at
from shop_k8s.model import NAMESPACE, Build, Object, dig, many, ref, selects
from shop_k8s.operators import OUTSIDE
from shop_k8s.policy import Complaints, policy

OPEN_PORTS = {587}
"""A mail server may be anywhere."""
DIRECTIONS = ("Ingress", "Egress")


def _rules(build: Build) -> Iterator[tuple[Object, str, Object]]:
    for rules in build.of("NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in many(rules, "spec", direction):
                yield rules, side, rule


@policy("By default nothing may come into any pod or leave it.")
def default_deny(build: Build) -> Complaints:
    if not any(
        rules["spec"].get("podSelector") == {}
        and set(many(rules, "spec", "policyTypes")) == set(DIRECTIONS)
        and not many(rules, "spec", "ingress")
        and not many(rules, "spec", "egress")
        for rules in build.of("NetworkPolicy")
    ):
        yield "NetworkPolicy/default-deny", "add one that selects all pods, with both policyTypes and no rules"


@policy("Every pod may ask the cluster's DNS.")
def dns(build: Build) -> Complaints:
    for end in ends(build):
        if not any(
            side == "to"
            and selects(rules["spec"].get("podSelector"), end.labels)
            and any(_namespace(peer) == "kube-system" for peer in many(rule, "to"))
            and {(p.get("protocol"), p.get("port")) for p in many(rule, "ports")} >= {("UDP", 53), ("TCP", 53)}
            for rules, side, rule in _rules(build)
        ):
            yield end.name, "let it out to kube-system on port 53, UDP and TCP"


def _namespace(peer: Object) -> object:
    return dig(peer, "namespaceSelector", "matchLabels", "kubernetes.io/metadata.name")


@policy("Every rule names its peers and ports; none is everybody, but on the port of mail servers.")
def named_peers(build: Build) -> Complaints:
    for rules, side, rule in _rules(build):
        if not rule.get(side):
            yield ref(rules), f"a rule without `{side}` lets everybody through; name them"
        if not rule.get("ports") or any("port" not in port for port in many(rule, "ports")):
            yield ref(rules), "a rule without ports opens all of them; name them"
        ports = {port.get("port") for port in many(rule, "ports")}
        for peer in many(rule, side):
            named = peer.get("podSelector") or peer.get("namespaceSelector") or peer.get("ipBlock")
            anywhere = dig(peer, "ipBlock", "cidr") in {"0.0.0.0/0", "::/0"}
            if not named or (anywhere and (side == "from" or not ports <= OPEN_PORTS)):
                yield ref(rules), f"a peer in `{side}` is everybody; name it"


@policy("Every NetworkPolicy selects a pod, and each of its peers is a pod of the build or a namespace outside.")
def peers_exist(build: Build) -> Complaints:
    everyone = ends(build)
    for rules in build.of("NetworkPolicy"):
        if not any(selects(rules["spec"].get("podSelector"), end.labels) for end in everyone):
            yield ref(rules), f"selects no pod: {rules['spec'].get('podSelector')}"
    for rules, side, rule in _rules(build):
        for peer in many(rule, side):
            namespace = _namespace(peer)
            if "namespaceSelector" in peer and namespace != NAMESPACE:
                if namespace not in OUTSIDE:
                    yield (
                        ref(rules),
                        f"namespace {namespace} is not known; take kubernetes.io/metadata.name of one that is",
                    )
            elif "ipBlock" not in peer and not any(
                selects(peer.get("podSelector", {}), end.labels) for end in everyone
            ):
                yield ref(rules), f"a peer in `{side}` selects no pod: {peer.get('podSelector')}"


@policy("What a configuration names is let through at both ends.")
def edges_are_open(build: Build) -> Complaints:
    by_name: dict[str, End] = {}
    for end in ends(build):
        by_name.setdefault(end.name, end)
    for source, target, port in sorted(edge for edge in edges(build) if edge[0] != edge[1]):
        client, server = by_name[source], by_name[target]
        if not lets_through(rules_at(build, client, "Egress"), server, server, port):
            yield source, f"nothing lets it out to {target} port {port}, which its configuration names"
        if not lets_through(rules_at(build, server, "Ingress"), client, server, port):
            yield target, f"nothing lets {source} in on port {port}, which its configuration names"


@policy("Between pods of the build nothing else is let through at either end.")
def no_other_edges(build: Build) -> Complaints:
    everyone, known = ends(build), edges(build)
    stores = {end.name for end in everyone} - {pod.name for pod in build.pods}
    ports = sorted({port for _, _, port in known} | {port for end in everyone for port in end.ports.values()})
    outward = [rules_at(build, end, "Egress") for end in everyone]
    inward = [rules_at(build, end, "Ingress") for end in everyone]
    for (client, out), (server, into) in product(
        zip(everyone, outward, strict=True), zip(everyone, inward, strict=True)
    ):
        if client.name == server.name or {client.name, server.name} <= stores:
            continue  # a store's own pods talk among themselves
        for port in ports:
            if (client.name, server.name, port) in known:
                continue
            if lets_through(out, server, server, port):
                yield client.name, f"is let out to {server.name} port {port}, which its configuration does not name"
            if lets_through(into, client, server, port):
                yield server.name, f"lets {client.name} in on port {port}, whose configuration does not name it"
