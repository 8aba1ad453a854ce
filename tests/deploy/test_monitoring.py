"""Compose file, alert rules and dashboard: they ask for metrics that the service has."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.imports import PATIENCE_S, ROOT

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "image-classifier.json"
RULES = DEPLOY / "prometheus" / "rules.yaml"
METRICS = (ROOT / "image_classifier" / "http" / "metrics.py").read_text()


def expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    queries = [one["expr"] for panel in board["panels"] for one in panel["targets"]]
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    keda = (DEPLOY / "kubernetes/components/keda/scaledobject.yaml").read_text()
    return [*queries, *(one["expr"] for one in rules), keda]


def test_every_metric_that_is_asked_for_is_one_of_the_service() -> None:
    declared = set(re.findall(r'"(classifier_\w+)"', METRICS))
    asked = {name for one in expressions() for name in re.findall(r"\bclassifier_[a-z_]+", one)}

    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert bare
    assert bare <= declared


def test_every_recorded_series_that_is_asked_for_is_recorded() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    recorded = {one["record"] for one in rules if "record" in one}
    asked = {name for one in expressions() for name in re.findall(r"classifier:[\w:]+", one)}

    assert asked <= recorded


def test_outcomes_that_are_asked_for_are_codes_of_errors() -> None:
    from image_classifier.http.schemas import ERRORS

    codes = set(ERRORS)
    codes |= {"ok", "internal_error"}
    asked = {
        code
        for one in expressions()
        for group in re.findall(r'outcome[=!]~?"([^"]+)"', one)
        for code in group.split("|")
    }

    assert asked <= codes


def test_the_budget_of_the_rules_is_a_bucket_of_the_histogram() -> None:
    from image_classifier.http.metrics import STAGE_BUCKETS_S

    limits = {float(le) for one in expressions() for le in re.findall(r'le="([\d.]+)"', one)}

    assert limits == {0.05}
    assert limits <= set(STAGE_BUCKETS_S)


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
    done = subprocess.run(
        ["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, timeout=PATIENCE_S
    )

    assert done.returncode == 0, done.stderr + done.stdout


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_composed_service_is_locked_down_and_open_to_this_machine_alone() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    classifier = services["classifier"]
    assert classifier["read_only"] is True
    assert classifier["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one["ports"])
    for one in services.values():
        for volume in one.get("volumes", []):
            assert (DEPLOY / Path(volume.partition(":")[0])).is_dir()


def test_prometheus_and_grafana_are_pointed_at_services_of_the_file() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    scraped = (DEPLOY / "prometheus/prometheus.yaml").read_text()
    source = (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()

    assert {"classifier", "prometheus"} <= services.keys()
    assert '"classifier:3000"' in scraped
    assert "http://prometheus:9090" in source
    assert yaml.safe_load(source)["datasources"][0]["uid"] == "prometheus"
