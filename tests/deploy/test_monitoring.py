"""Compose file, alert rules and dashboard fit the metrics of the service."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.schemas import ERRORS
from tests.imports import ROOT
from tests.programs import run_program

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "image-classifier.json"
KEDA = DEPLOY / "kubernetes/components/keda/scaledobject.yaml"
ADAPTER = DEPLOY / "kubernetes/components/autoscaling/prometheus-adapter.yaml"
RULES = DEPLOY / "prometheus" / "rules.yaml"
RECORDED = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PANELS = json.loads(DASHBOARD.read_text())["panels"]

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs Debian's package prometheus"
)


def expressions() -> str:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    scalers = (KEDA.read_text(), ADAPTER.read_text().replace("classifier_demand", ""))
    return "\n".join([*queries, *(rule["expr"] for rule in RECORDED), *scalers])


def test_all_queried_series_outcomes_and_buckets_exist() -> None:
    exposed = generate_latest(RequestMetrics()).decode()
    queried = set(re.findall(r"\bclassifier_[a-z_]+", expressions()))
    groups = re.findall(r'outcome[=!]~?"([^"]+)"', expressions())

    assert queried
    for name in queried:
        assert re.search(rf"^# TYPE {re.sub(r'_(bucket|sum|count)$', '', name)} ", exposed, re.M)
    assert {code for group in groups for code in group.split("|")} <= {"ok", *ERRORS}
    limits = set(re.findall(r'le="([\d.]+)"', expressions()))
    assert limits == {"0.05"}  # the default budget
    assert 'le="0.05"' in exposed
    recorded = {rule["record"] for rule in RECORDED if "record" in rule}
    assert set(re.findall(r"classifier:[\w:]+", expressions())) <= recorded


def test_every_panel_uses_the_variables() -> None:
    templates = json.loads(DASHBOARD.read_text())["templating"]["list"]
    variables = {template["name"] for template in templates}

    for panel in PANELS:
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) == variables
    assert variables == {"namespace", "pod", "model"}


def test_every_alert_links_to_its_documentation() -> None:
    alerts = [rule for rule in RECORDED if "alert" in rule]

    assert alerts
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert f"### {alert['alert']}\n" in (ROOT / page).read_text()
        assert anchor == alert["alert"].lower()


@needs_promtool
def test_promtool_accepts_rules_alerts_and_configuration() -> None:
    for words in (
        "check rules rules.yaml",
        "test rules rules_test.yaml",
        "check config prometheus.yaml",
    ):
        done = run_program("promtool", *words.split(), cwd=RULES.parent)

        assert done.returncode == 0, done.stderr + done.stdout


@needs_promtool
def test_autoscalers_count_the_requests_refused_under_overload(tmp_path: Path) -> None:
    """4 are in flight, 40 answered and 80 refused a second: 12 would be in flight."""
    adapter = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"][0]["metricsQuery"]
    adapter = adapter.replace("<<.LabelMatchers>>", 'pod="a"').replace("<<.GroupBy>>", "pod")
    keda = yaml.safe_load(KEDA.read_text())["spec"]["triggers"][0]["metadata"]["query"]
    labels = 'job="image-classifier",pod="a"'
    series = {
        f"classifier_in_flight{{{labels}}}": "4x40",
        f'classifier_requests_total{{{labels},outcome="ok"}}': "0+600x40",
        f'classifier_requests_total{{{labels},outcome="overloaded"}}': "0+1200x40",
    }
    expected = ((keda, "{}"), (adapter, '{pod="a"}'))
    tests = {
        "interval": "15s",
        "input_series": [{"series": name, "values": value} for name, value in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "5m", "exp_samples": [{"labels": pod, "value": 12}]}
            for query, pod in expected
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [tests]}))

    done = run_program("promtool", "test", "rules", path)

    assert done.returncode == 0, done.stderr + done.stdout


def test_the_composed_service_is_locked_down_and_local() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    classifier = services["classifier"]
    assert classifier["read_only"] is True
    assert classifier["cap_drop"] == ["ALL"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", []):
            assert (DEPLOY / Path(volume.partition(":")[0])).is_dir()

    # Prometheus and Grafana query services of this file.
    scraped = (DEPLOY / "prometheus/prometheus.yaml").read_text()
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    assert {"classifier", "prometheus"} <= services.keys()
    assert '"classifier:3000"' in scraped
    assert "http://prometheus:9090" in source
    assert yaml.safe_load(source)["datasources"][0]["uid"] == "prometheus"
