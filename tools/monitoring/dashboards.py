"""Writes deploy/monitoring/dashboards/*.json from the panels listed here; `dashboards.py FOLDER` writes them elsewhere.

A panel is its title, its unit, and its queries by legend.
"""  # noqa: INP001 - a script, not a package

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring" / "dashboards"
PANELS_PER_ROW, WIDTH, HEIGHT = 3, 8, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    title: str
    unit: str
    queries: dict[str, str]


class Dashboard(NamedTuple):
    title: str
    variables: dict[str, str]
    """Label → a metric that has it."""
    panels: Sequence[Panel]


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def rates(metric: str, by: str) -> dict[str, str]:
    return {_legend(by): rate(metric, by)}


def slowest(histogram: str, by: str) -> dict[str, str]:
    return {_legend(by): quantile(0.99, histogram, f"le, {by}")}


def _legend(by: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by.split(", "))


def quantile(share: float, histogram: str, by: str = "le") -> str:
    """`histogram` is a name with its selector; the buckets' suffix is put between."""
    name, brace, selector = histogram.partition("{")
    return f"histogram_quantile({share:g}, {rate(f'{name}_bucket{brace}{selector}', by)})"


def quantiles(histogram: str, by: str = "") -> dict[str, str]:
    labels, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    return {f"{legend}p{share * 100:g}": quantile(share, histogram, labels) for share in (0.5, 0.95, 0.99)}


def budget_left(slo: str) -> str:
    window = f'{{slo="{slo}"}}[30d]'
    spent = f"avg_over_time(slo:errors:rate5m{window}) / avg_over_time(slo:events:rate5m{window})"
    return f'1 - {spent} / slo:budget:ratio{{slo="{slo}"}}'


GATEWAY = Dashboard(
    "Shop / gateway",
    {"route": "shop_http_requests_total"},
    [
        Panel(
            "Error budgets left, 30 days", "percentunit", {slo: budget_left(slo) for slo in ("availability", "latency")}
        ),
        Panel(
            "Burn rates (1: as fast as it may)",
            "none",
            {"{{slo}} 1 h": "slo:burn_rate:1h", "{{slo}} 6 h": "slo:burn_rate:6h", "{{slo}} 3 d": "slo:burn_rate:3d"},
        ),
        Panel(
            "Requests by status", "reqps", rates('shop_http_requests_total{job="gateway",route=~"$route"}', "status")
        ),
        Panel("Latency", "s", quantiles('shop_http_request_seconds{job="gateway",route=~"$route"}')),
        Panel(
            "Slowest routes, p99",
            "s",
            {
                "{{method}} {{route}}": "topk(5, "
                + quantile(0.99, 'shop_http_request_seconds{job="gateway"}', "le, method, route")
                + ")"
            },
        ),
        Panel(
            "Dashboards by source and state",
            "reqps",
            {
                "{{source}} {{state}}": rate("shop_gateway_dashboards_total", "source, state"),
                "at once": "sum(rate(shop_gateway_at_once_total[$__rate_interval]))",
            },
        ),
        Panel("Calls to upstreams, p99", "s", slowest("shop_gateway_upstream_seconds", "upstream, route")),
        Panel(
            "Calls to upstreams by outcome",
            "reqps",
            {
                "{{upstream}} {{outcome}}": rate("shop_gateway_upstream_seconds_count", "upstream, outcome"),
                "{{upstream}} again": rate("shop_gateway_upstream_retries_total", "upstream"),
                "{{upstream}} spared: {{reason}}": rate("shop_gateway_upstream_spared_total", "upstream, reason"),
            },
        ),
        Panel(
            "Breakers (0 closed, 1 half-open, 2 open)",
            "none",
            {"{{upstream}} {{method}} {{route}}": "max by (upstream, method, route) (shop_gateway_breaker_state)"},
        ),
        Panel(
            "Concurrency limits, smallest of a process",
            "none",
            {"{{upstream}} {{method}} {{route}}": "min by (upstream, method, route) (shop_gateway_concurrency_limit)"},
        ),
        Panel("Sections read, to be kept", "ops", rates("shop_gateway_fills_total", "level, outcome")),
        Panel(
            "Since when not all changes are known",
            "s",
            {"{{instance}}": 'max by (instance) (shop_follower_lag_seconds{job="gateway"})'},
        ),
        Panel("Changes heard", "ops", rates("shop_gateway_changes_total", "instance, topic")),
        Panel(
            "Streams",
            "none",
            {
                "open": "sum(shop_gateway_streams)",
                "ended per second: {{reason}}": rate("shop_gateway_streams_ended_total", "reason"),
            },
        ),
        Panel(
            "Rate limits",
            "reqps",
            {
                "{{source}} {{policy}} {{decision}}": rate(
                    "shop_gateway_rate_decisions_total", "source, policy, decision"
                ),
                "clients with leases": "sum(shop_gateway_rate_leases)",
            },
        ),
    ],
)

SERVICES = Dashboard(
    "Shop / services",
    {"job": "shop_http_requests_total"},
    [
        Panel("Requests", "reqps", rates('shop_http_requests_total{job=~"$job"}', "job")),
        Panel(
            "Answers 5xx", "reqps", rates('shop_http_requests_total{job=~"$job",status=~"5.."}', "job, route, status")
        ),
        Panel("Latency", "s", quantiles('shop_http_request_seconds{job=~"$job"}', "job")),
        Panel("Requests under way", "none", {"{{job}}": 'sum by (job) (shop_http_requests_in_progress{job=~"$job"})'}),
        Panel("Processes that answer", "none", {"{{job}}": 'sum by (job) (up{job=~"$job"})'}),
        Panel("Running since", "s", {"{{job}} {{instance}}": 'time() - process_start_time_seconds{job=~"$job"}'}),
        Panel(
            "CPU, where a process has one worker",
            "percentunit",
            rates('process_cpu_seconds_total{job=~"$job"}', "job, instance"),
        ),
        Panel("Memory, likewise", "bytes", {"{{job}} {{instance}}": 'process_resident_memory_bytes{job=~"$job"}'}),
        Panel("Open files, likewise", "none", {"{{job}} {{instance}}": 'process_open_fds{job=~"$job"}'}),
    ],
)

EVENTS = Dashboard(
    "Shop / events",
    {"group": "shop_events_consumed_total"},
    [
        Panel("Freshness budget left, 30 days", "percentunit", {"freshness": budget_left("freshness")}),
        Panel(
            "From a change to its event's handling", "s", quantiles('shop_event_age_seconds{group=~"$group"}', "group")
        ),
        Panel("Lag", "none", {"{{group}}": 'sum by (group) (shop_consumer_lag{group=~"$group"})'}),
        Panel("Oldest event not sent", "s", {"{{job}}": "max by (job) (shop_outbox_oldest_seconds)"}),
        Panel(
            "Events waiting, at most a batch of each relay", "none", {"{{job}}": "sum by (job) (shop_outbox_pending)"}
        ),
        Panel(
            "Shards held, of 16",
            "none",
            {"{{job}} {{instance}}": 'shop_outbox_shards{job=~"users-worker|orders-worker"}'},
        ),
        Panel("Events published", "ops", rates("shop_outbox_published_total", "job, topic")),
        Panel("Relay's failures", "ops", rates("shop_outbox_failures_total", "job, step")),
        Panel("Sends", "ops", rates("shop_kafka_sends_total", "job, topic, outcome")),
        Panel("From handing over to ack, p99", "s", slowest("shop_kafka_send_seconds", "topic")),
        Panel("Events done with", "ops", rates('shop_events_consumed_total{group=~"$group"}', "group, outcome")),
        Panel("Failed tries", "ops", rates('shop_event_failures_total{group=~"$group"}', "group, kind")),
        Panel(
            "Dead letters since start",
            "none",
            {"{{group}} {{error}}": 'sum by (group, error) (shop_dead_letters_total{group=~"$group"})'},
        ),
        Panel("Handlers, p99", "s", slowest('shop_event_handler_seconds{group=~"$group"}', "group, type")),
        Panel(
            "Handlers running, bound 64",
            "none",
            {"{{group}}": 'sum by (group) (shop_events_in_flight{group=~"$group"})'},
        ),
        Panel(
            "Lag by partition",
            "none",
            {
                "{{group}} {{topic}} {{partition}}": "max by (group, topic, partition) "
                '(shop_consumer_lag{group=~"$group"})'
            },
        ),
        Panel(
            "Clients of Kafka thrown away, per hour",
            "none",
            {
                "{{group}} {{reason}}": "sum by (group, reason) (increase(shop_consumer_rebuilds_total[1h]))",
                "producer of {{job}}: {{reason}}": "sum by (job, reason) "
                "(increase(shop_kafka_producer_rebuilds_total[1h]))",
                "follower of {{job}}: {{reason}}": "sum by (job, reason) (increase(shop_follower_rebuilds_total[1h]))",
            },
        ),
    ],
)

POOLS = Dashboard(
    "Shop / pools",
    {"job": "shop_pool_connections"},
    [
        Panel(
            "Connections lent out",
            "none",
            {"{{job}} {{instance}} {{pool}}": 'shop_pool_connections_in_use{job=~"$job"}'},
        ),
        Panel("Connections open", "none", {"{{job}} {{instance}} {{pool}}": 'shop_pool_connections{job=~"$job"}'}),
        Panel(
            "Lent out, of those open",
            "percentunit",
            {
                "{{job}} {{pool}}": 'sum by (job, pool) (shop_pool_connections_in_use{job=~"$job"})'
                ' / sum by (job, pool) (shop_pool_connections{job=~"$job"})'
            },
        ),
        Panel("Waits for a connection", "ops", rates('shop_pool_wait_seconds_count{job=~"$job"}', "job, pool")),
        Panel("Waits for a connection, p99", "s", slowest('shop_pool_wait_seconds{job=~"$job"}', "job, pool")),
        Panel("Waits that ended in 503", "ops", rates('shop_pool_timeouts_total{job=~"$job"}', "job, pool")),
    ],
)

DASHBOARDS = {"gateway": GATEWAY, "services": SERVICES, "events": EVENTS, "pools": POOLS}


def render(name: str, dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"shop-{name}",
        "title": dashboard.title,
        "tags": ["shop"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [{"type": "dashboards", "title": "Shop", "tags": ["shop"], "asDropdown": True, "keepTime": True}],
        "templating": {"list": [_data_source(), *(_variable(*each) for each in dashboard.variables.items())]},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values({metric}, {label})",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, PANELS_PER_ROW)
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def main(folder: Path) -> None:
    for name, dashboard in DASHBOARDS.items():
        (folder / f"{name}.json").write_text(json.dumps(render(name, dashboard), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
