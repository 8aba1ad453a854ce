"""The certificate says what the server says of itself, and what it holds as it serves."""

# psutil ships no types.
# mypy: disable-error-code="import-untyped"

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import certify
from benchmarks.applied_load import Load
from benchmarks.certify import plan_of
from benchmarks.plan import Plan as LoadPlan
from benchmarks.running import RunningServer
from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.record import Plan
from image_classifier.http.schemas import engine_card
from tests.artifact.builder import write_artifact
from tests.benchmarks.servers import right, serving, target


@pytest.mark.parametrize("single_stream", [True, False])
def test_the_certified_plan_is_the_one_the_server_shows(
    tmp_path: Path, single_stream: bool
) -> None:
    evidence = open_artifact(tmp_path, write_artifact(tmp_path)).evidence
    plan = Plan(
        engine=evidence.engines[0].name,
        streams=2,
        threads=3,
        batch_sizes=(1, 4),
        service_time_ms=7.5,
        single_stream=single_stream,
    )

    assert plan_of(engine_card(evidence, plan)) == plan


def test_saturation_is_certified_without_refusals_and_the_rate_as_it_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "artifact"
    root.mkdir()
    artifact = open_artifact(root, write_artifact(root))
    plan = Plan(
        engine=artifact.evidence.engines[0].name,
        streams=1,
        threads=1,
        batch_sizes=(1,),
        service_time_ms=1.0,
    )
    card = {
        "engine": engine_card(artifact.evidence, plan),
        "topology": "embedded",
        "model": {"tag": "insects:1"},
    }
    started: list[dict[str, str]] = []

    @contextlib.contextmanager
    def served(_subject: object, _requests: object, settings: dict[str, str]) -> Iterator[Load]:
        started.append(settings)
        refused = (429, b"{}")
        with serving(right if settings else lambda _number, _body: refused) as port:
            server = RunningServer(process=psutil.Process(), port=port, ready_s=1)
            yield Load(server=server, target=target(port))

    monkeypatch.setattr(certify, "_served", served)
    monkeypatch.setattr(certify, "ask", lambda *_: (200, json.dumps(card).encode()))
    subject = certify.Subject(artifact=artifact, settings={}, images=(b"0",), images_name="golden")

    certificate = certify.certify(
        subject, LoadPlan(name="certify", cases=(), slice_s=0.2, longest_probe=1)
    )

    assert started == [
        {"CLASSIFIER_MAX_WAIT_MS": "5000", "CLASSIFIER_OVERLOAD_WAIT_MS": "5000"},
        {},
    ]
    assert certificate.saturated_per_s > 0
    assert certificate.highest_rate_per_s == 0
