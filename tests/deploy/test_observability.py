"""Rules, alerts and the dashboard speak of metrics that the server has, and each alert is tested and documented."""

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_RULES = _ROOT / "deploy/prometheus/rules.yml"
_DASHBOARD = _ROOT / "deploy/grafana/dashboards/resonnx.json"
# Of prometheus_client and of Prometheus itself.
_OTHERS = {
    "up",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
}
_PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(_RULES.read_text())["groups"] for rule in group["rules"]]


def _metrics() -> set[str]:
    """All names of the reference, and the parts of histograms."""
    found = re.findall(r"^\| `(\w+)` \| (\w+) \|", (_ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    parts = {f"{name}_{part}" for name, kind in found if kind == "histogram" for part in ("bucket", "sum", "count")}
    return {name for name, _ in found} | parts | _OTHERS


def _named(expression: str) -> set[str]:
    """Metrics of an expression: identifiers before a selector, a range or the end of an operand."""
    without = re.sub(r'"[^"]*"|(?:by|on) \([^)]*\)|\{[^}]*\}|\[[^]]*\]', " ", expression)
    return set(re.findall(r"[a-z_:][\w:]*(?![\w:]*\s*\()", without)) - {"and", "or", "unless", "group_left"}


def _queries() -> list[str]:
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_the_dashboard_is_up_to_date() -> None:
    command = [sys.executable, "-m", "deploy.observability.dashboard"]
    made = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert _DASHBOARD.read_text() == made.stdout, "make dashboard"


def test_all_named_metrics_exist() -> None:
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    expressions = [rule["expr"] for rule in _rules()] + _queries()
    assert len(expressions) > 50
    assert {name for expression in expressions for name in _named(expression)} <= _metrics() | recorded


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in json.loads(_DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    expected = defaultdict(set)
    for case in yaml.safe_load(_RULES.with_name("rules_test.yml").read_text())["tests"]:
        for test in case["alert_rule_test"]:
            expected[test["alertname"]].add(bool(test["exp_alerts"]))
    assert expected == {rule["alert"]: {True, False} for rule in _rules() if "alert" in rule}


def test_each_alert_says_what_happens_and_what_to_do() -> None:
    for rule in _rules():
        if "alert" in rule:
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
            assert len(rule["annotations"]["description"]) > 40, rule["alert"]


def test_each_alert_is_in_the_operators_manual() -> None:
    text = (_ROOT / "docs/operations.md").read_text()
    named = set(re.findall(r"`(Resonnx\w+)`", text)) | {"ResonnxBurnsErrorBudgetSlowly"}
    assert {rule["alert"] for rule in _rules() if "alert" in rule} <= named


@pytest.mark.parametrize("file", ["prometheus.yml", "prometheus-tls.yml"])
def test_prometheus_reads_the_rules(file: str) -> None:
    assert yaml.safe_load(_RULES.with_name(file).read_text())["rule_files"] == [_RULES.name]


@_PROMTOOL
def test_alerts_fire_and_are_silent() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"],
        cwd=_RULES.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@_PROMTOOL
def test_queries_are_valid(tmp_path: Path) -> None:
    """Prometheus' parser reads each; that they have data is seen under load only."""
    choices = {"$model": ".*", "$instance": ".*", "$__rate_interval": "1m"}
    queries = _queries()
    for variable, value in choices.items():
        queries = [query.replace(variable, value) for query in queries]
    rules = [{"record": f"panel:query_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = ["promtool", "check", "rules", tmp_path / "rules.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
@pytest.mark.timeout(300)
def test_every_panel_has_data_under_load(demo_repository: Path) -> None:
    command = [sys.executable, "-m", "deploy.observability.observe", "--repository", demo_repository]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@pytest.mark.timeout(400)
def test_the_dashboard_is_of_grafanas_types(tmp_path: Path) -> None:
    """Grafana itself is not needed: its schema is a package of types."""
    (tmp_path / "package.json").write_text('{"private": true}')
    install = ["npm", "install", "--silent", "--no-audit", "@grafana/schema@13.2.3", "typescript@5"]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=300)
    (tmp_path / "dashboard.ts").write_text(
        'import type { Dashboard } from "@grafana/schema";\n'
        f"export const dashboard: Partial<Dashboard> = {_DASHBOARD.read_text()};\n"
    )
    check = ["npx", "tsc", "--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler"]
    check += ["--module", "esnext", "--target", "es2022", "dashboard.ts"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout
