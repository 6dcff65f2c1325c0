"""Alerts can be acted on, tested and found; dashboards are what their source says; the cluster is given all of it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = sorted((MONITORING / "rules").glob("*.yaml"))
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))


def alerts_of(file: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(file.read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


ALERTS = [pytest.param(rule, id=rule["alert"]) for file in RULES for rule in alerts_of(file)]


def anchors(page: Path) -> set[str]:
    """As pages are rendered: a heading in lower case, without punctuation, its spaces hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_who_is_told_what_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors(ROOT / page)


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.stem)
def test_every_alert_is_seen_to_fire_and_nothing_fires_while_all_is_well(file: Path) -> None:
    tests = yaml.safe_load((ROOT / "tests/monitoring/rules" / f"{file.stem}.test.yaml").read_text())["tests"]
    checks = [check for test in tests for check in test["promql_expr_test"]]
    fired = {sample["labels"] for check in checks for sample in check["exp_samples"]}
    expected = {
        f'{{alertname="{alert["alert"]}",severity="{alert["labels"]["severity"]}"}}' for alert in alerts_of(file)
    }
    assert fired == expected
    assert {check["expr"] for check in checks} == {'count by (alertname, severity) (ALERTS{alertstate="firing"})'}
    assert not any(check["exp_samples"] for check in tests[0]["promql_expr_test"])


def test_the_page_lists_every_alert() -> None:
    rows = {
        f"| `{alert['alert']}` | {alert['labels']['severity']} | {_plain(alert['annotations']['summary'])} "
        f"| [runbook]({alert['annotations']['runbook_url'].removeprefix('docs/')}) |"
        for file in RULES
        for alert in alerts_of(file)
    }
    page = (ROOT / "docs/monitoring.md").read_text()
    assert set(re.findall(r"^\| `\w+` \| (?:page|ticket) \|.*$", page, re.MULTILINE)) == rows


def _plain(summary: str) -> str:
    return re.sub(r"{{ \$labels\.(\w+) }}", r"*\1*", summary)


def test_dashboards_are_what_their_source_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools/monitoring/dashboards.py", tmp_path], check=True)  # noqa: S603 - our own
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {file.name: file.read_text() for file in DASHBOARDS} == written, "run tools/monitoring/dashboards.py"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_can_be_linked_to_and_read(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    assert dashboard["uid"] == f"shop-{file.stem}"
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in dashboard["panels"])


def test_the_cluster_is_given_every_rule_and_every_dashboard() -> None:
    kustomization = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [f"rules/{file.name}" for file in RULES]
    given = [file for generator in kustomization["configMapGenerator"] for file in generator["files"]]
    assert sorted(given) == [f"dashboards/{file.name}" for file in DASHBOARDS]
    assert kustomization["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}


def test_the_collector_bounds_its_memory_first_and_batches_last() -> None:
    config = yaml.safe_load((MONITORING / "collector" / "otel-collector.yaml").read_text())
    assert config["service"]["pipelines"]["traces"]["processors"] == ["memory_limiter", "tail_sampling", "batch"]
    policies = {policy["name"]: policy["type"] for policy in config["processors"]["tail_sampling"]["policies"]}
    assert policies == {"errors": "status_code", "slow": "latency", "share": "probabilistic"}
