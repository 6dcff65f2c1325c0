"""Every query of the alerts and dashboards asks for what the running services export: names, labels and values."""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from shop_cluster.ports import HOST
from shop_cluster.pytest_plugin import Cluster

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
PORTS = {
    "gateway": "gateway_metrics",
    "users": "users",
    "orders": "orders",
    "users-worker": "users_worker",
    "orders-worker": "orders_worker",
}
ITEMS = [{"sku": "tea-1", "quantity": 1, "unit_price": {"amount": 450, "currency": "EUR"}}]
STATUS = "status"  # a well cluster answers no 5xx, and HTTP says which there are

Exported = dict[str, list[dict[str, str]]]
"""The labels of each series by its name; `job` and `instance` are those Prometheus adds."""


class Query(NamedTuple):
    where: str
    expr: str
    shown: frozenset[str]
    """Labels that its texts show of the result."""


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((MONITORING / "rules").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text())["spec"]["groups"]:
            for rule in group["rules"]:
                yield file.stem, rule


def queries() -> Iterator[Query]:
    for name, rule in rules():
        texts = " ".join(rule.get("annotations", {}).values())
        yield Query(f"{name}: {rule.get('alert') or rule['record']}", rule["expr"], _found(r"\$labels\.(\w+)", texts))
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                [(metric, label)] = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["query"])
                yield Query(f"{file.stem}: ${label}", metric, frozenset({label}))
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                shown = _found(r"{{(\w+)}}", target["legendFormat"])
                yield Query(f"{file.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "5m"), shown)


def _found(pattern: str, text: str) -> frozenset[str]:
    return frozenset(re.findall(pattern, text))


async def scrape(cluster: Cluster) -> Exported:
    """What each process serves, and what Prometheus makes of it: `up`, and the recorded rules."""
    exported: Exported = {"up": [{"job": job, "instance": ""} for job in PORTS]}
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for job, port in PORTS.items():
            answer = await client.get(f"http://{HOST}:{cluster.state.ports[port]}/metrics")
            for family in text_string_to_metric_families(answer.text):
                for sample in family.samples:
                    exported.setdefault(sample.name, []).append(sample.labels | {"job": job, "instance": ""})
    for _, rule in rules():
        if "record" in rule:
            names = re.findall(r"slo:[\w:]+", rule["expr"])
            own = [rule["labels"]] if "labels" in rule else exported[names[0]]
            exported.setdefault(rule["record"], []).extend(own)
    return exported


def complaints(query: Query, exported: Exported) -> list[str]:
    found: list[str] = []
    labels = _check(promql_parser.parse(query.expr), exported, found)
    found += [f"the result has no label {label}" for label in sorted(query.shown - labels)]
    return [f"{query.where}: {text}" for text in found]


def _check(node: Any, exported: Exported, found: list[str]) -> set[str]:
    """Note what is wrong in an expression; the labels its result can have."""
    if isinstance(node, promql_parser.VectorSelector):
        return _check_selector(node, exported, found)
    labels = {label for child in _children(node) for label in _check(child, exported, found)}
    modifier = getattr(node, "modifier", None)
    named = set(getattr(getattr(modifier, "matching", modifier), "labels", ()))
    found += [f"nothing in it has the label {label}" for label in sorted(named - labels)]
    keeps_only = isinstance(node, promql_parser.AggregateExpr) and modifier and "By" in str(modifier.type)
    return labels & named if keeps_only else labels


def _children(node: Any) -> Iterator[Any]:
    for name in ("expr", "param", "lhs", "rhs", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield child
    yield from getattr(node, "args", ())


def _check_selector(selector: Any, exported: Exported, found: list[str]) -> set[str]:
    series = exported.get(selector.name, [])
    if not series:
        found.append(f"nobody exports {selector.name}")
    labels = {label for each in series for label in each}
    for matcher in sorted(selector.matchers.matchers, key=lambda each: (each.name != "job", each.name)):
        if series and matcher.name not in labels:
            found.append(f"{selector.name} has no label {matcher.name}")
            continue
        wanted = _values(matcher)
        seen = {each.get(matcher.name) for each in series}
        if series and matcher.name != STATUS and wanted:
            found += [f"{selector.name} never has {matcher.name}={value}" for value in wanted if value not in seen]
            series = [each for each in series if each.get(matcher.name) in wanted]
    return labels


def _values(matcher: Any) -> list[str]:
    """Those it asks for by name; a real pattern, a variable of a dashboard, or what it excludes is none."""
    positive = repr(matcher.op) in {"MatchOp.Equal", "MatchOp.Re"}  # they cannot be in a set
    return matcher.value.split("|") if positive and re.fullmatch(r"[\w./|-]+", matcher.value) else []


async def _shop(gateway: httpx.AsyncClient, person: Any, eventually: Any) -> None:
    """An order through every process, the dashboard, and a stream that is listened to and left."""
    headers = {**person.bearer, "Idempotency-Key": str(uuid.uuid4())}
    placed = await gateway.post("/v1/orders", json={"items": ITEMS}, headers=headers)
    assert placed.status_code == 201, placed.text

    async def counted() -> bool | None:
        stats = await gateway.get(f"/v1/users/{person.id}/stats", headers=person.bearer)
        return stats.json().get("orders") == 1 or None

    await eventually(counted, "the order never reached the statistics")
    for _ in range(2):
        assert (await gateway.get("/v1/me/dashboard", headers=person.bearer)).is_success
    async with gateway.stream("GET", "/v1/me/events", headers=person.bearer) as stream:
        assert [line async for line in _first(stream.aiter_lines())]


async def _first(lines: Any) -> Any:
    async for line in lines:
        yield line
        return


async def test_every_query_asks_for_what_is_exported(
    cluster: Cluster, gateway: httpx.AsyncClient, register: Any, eventually: Any
) -> None:
    await _shop(gateway, await register(), eventually)
    left: Sequence[str] = ()

    async def nothing_is_left() -> bool | None:
        nonlocal left
        exported = await scrape(cluster)
        left = [text for query in queries() for text in complaints(query, exported)]
        return not left or None

    with suppress(pytest.fail.Exception):  # what is missing says more
        await eventually(nothing_is_left, "")
    assert left == []


@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ("sum(rate(shop_http_request_total[5m]))", "nobody exports shop_http_request_total"),
        ("rate(shop_http_request_seconds[5m])", "nobody exports shop_http_request_seconds"),
        ("sum by (pool) (up)", "nothing in it has the label pool"),
        ("up / on (pool) up", "nothing in it has the label pool"),
        ('up{process="gateway"}', "up has no label process"),
        ('up{job=~"gateway|user"}', "up never has job=user"),
        ('shop_http_request_seconds_bucket{le="5"}', "shop_http_request_seconds_bucket never has le=5"),
        ('shop_follower_lag_seconds{job="users"}', "shop_follower_lag_seconds never has job=users"),
        ("max_over_time((sum by (job) (up) > 0)[5m:1m]) or slo:burn_rate:7m", "nobody exports slo:burn_rate:7m"),
        ('slo:burn_rate:1h{slo="speed"}', "slo:burn_rate:1h never has slo=speed"),
        ("sum by (job) (up)", "the result has no label instance"),
    ],
)
async def test_a_query_of_what_nobody_exports_is_noticed(cluster: Cluster, expr: str, complaint: str) -> None:
    shown = frozenset({"instance"} if complaint.startswith("the result") else ())
    assert complaints(Query("it", expr, shown), await scrape(cluster)) == [f"it: {complaint}"]
