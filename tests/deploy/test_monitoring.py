"""Compose file, alert rules and dashboard: they ask for metrics that the service has."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.schemas import ERRORS
from tests.imports import ROOT
from tests.programs import run_program

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "image-classifier.json"
RULES = DEPLOY / "prometheus" / "rules.yaml"
RECORDED = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PANELS = json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> str:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    keda = (DEPLOY / "kubernetes/components/keda/scaledobject.yaml").read_text()
    return "\n".join([*queries, *(rule["expr"] for rule in RECORDED), keda])


def test_what_is_asked_for_exists_series_outcomes_and_buckets() -> None:
    exposed = RequestMetrics().exposition().decode()
    asked = set(re.findall(r"\bclassifier_[a-z_]+", expressions()))
    groups = re.findall(r'outcome[=!]~?"([^"]+)"', expressions())

    assert asked
    for name in asked:
        assert re.search(rf"^# TYPE {re.sub(r'_(bucket|sum|count)$', '', name)} ", exposed, re.M)
    assert {code for group in groups for code in group.split("|")} <= {"ok", *ERRORS}
    limits = set(re.findall(r'le="([\d.]+)"', expressions()))
    assert limits == {"0.05"}  # the default budget
    assert 'le="0.05"' in exposed
    recorded = {rule["record"] for rule in RECORDED if "record" in rule}
    assert set(re.findall(r"classifier:[\w:]+", expressions())) <= recorded


def test_every_panel_obeys_the_variables() -> None:
    variables = {one["name"] for one in json.loads(DASHBOARD.read_text())["templating"]["list"]}

    for panel in PANELS:
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) == variables
    assert variables == {"namespace", "pod", "model"}


def test_every_alert_links_to_its_section_of_the_docs() -> None:
    alerts = [rule for rule in RECORDED if "alert" in rule]

    assert alerts
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert f"### {alert['alert']}\n" in (ROOT / page).read_text()
        assert anchor == alert["alert"].lower()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("check", "rules", "rules.yaml"), id="rules"),
        pytest.param(("test", "rules", "rules_test.yaml"), id="alerts"),
        pytest.param(("check", "config", "prometheus.yaml"), id="configuration"),
    ],
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not there (Debian package prometheus)")
    done = run_program("promtool", *words, cwd=RULES.parent)

    assert done.returncode == 0, done.stderr + done.stdout


def test_the_composed_service_is_locked_down_and_open_to_this_machine_alone() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    classifier = services["classifier"]
    assert classifier["read_only"] is True
    assert classifier["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one["ports"])
    for one in services.values():
        for volume in one.get("volumes", []):
            assert (DEPLOY / Path(volume.partition(":")[0])).is_dir()

    # Prometheus and Grafana ask services of the file.
    scraped = (DEPLOY / "prometheus/prometheus.yaml").read_text()
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    assert {"classifier", "prometheus"} <= services.keys()
    assert '"classifier:3000"' in scraped
    assert "http://prometheus:9090" in source
    assert yaml.safe_load(source)["datasources"][0]["uid"] == "prometheus"
