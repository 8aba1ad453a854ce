"""What `make certify` stores and proposes; expected values are calculated by hand."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.record import read_slo
from image_classifier.http.schemas import ModelCard
from tests.artifact.builder import SLO, write_artifact
from tests.http.fakes import LOCK
from tests.tools.tiny_servers import prediction, right, serving, target
from tools import certify
from tools.certify import CertifyError, Subject, near_best, proposal, replicas_for
from tools.serving import ROOT, RunningServer


def test_saturation_is_measured_without_refusals_and_the_rate_with_the_usual_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "artifact"
    artifact = open_artifact(root, write_artifact(root))
    changes = {"engine": artifact.evidence.engines[0].name, "streams": 2, "threads": 3}
    plan = SLO.plan.model_copy(update={**changes, "batch_sizes": (1, 4), "single_stream": True})
    card = ModelCard.of(LOCK, artifact, plan, "embedded").model_dump(mode="json")
    predictions = json.loads(prediction(0))["predictions"][0] | {"probability": 1.0}
    started: list[Mapping[str, str]] = []

    @contextlib.contextmanager
    def served(
        _subject: object, _requests: object, settings: Mapping[str, str]
    ) -> Iterator[RunningServer]:
        started.append(settings)
        with serving(right if settings else lambda _number, _body: (429, b"{}")) as port:
            yield RunningServer(process=psutil.Process(), port=port, ready_s=len(started))

    monkeypatch.setattr(certify, "_served", served)
    answer = json.dumps({**card, "predictions": [predictions]}).encode()
    monkeypatch.setattr(certify, "ask", lambda *_: (200, answer))
    monkeypatch.setattr(certify, "WARMUP_S", 0.05)
    subject = Subject(
        artifact=artifact,
        settings={"CLASSIFIER_WORKERS": "1", "CLASSIFIER_LOCK": "elsewhere"},
        images={"0.png": b"0"},
        images_name="golden",
    )

    found = certify.certify(subject, budget_ms=50, probe_s=0.2)

    patient = {"CLASSIFIER_MAX_WAIT_MS": "5000", "CLASSIFIER_OVERLOAD_WAIT_MS": "5000"}
    assert started == [patient, {}]
    assert found.saturated_per_s > 0
    assert found.highest_rate_per_s == 0  # the usual start refuses everything
    assert found.first_failed_rate_per_s is not None
    assert (found.p99_ms, found.ready_s) == (None, 2)
    assert found.settings == {"CLASSIFIER_WORKERS": "1"}
    assert found.plan == plan
    assert read_slo(root) == found
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "starting the service without refusals, to saturate it for 0.2 s"
    assert second.endswith("as configured, for 5 rates of up to 0.6 s each")


def test_a_refused_image_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "ask", lambda *_: (422, b"undecodable_image"))
    subject = Subject(artifact=None, settings={}, images={"1.pdf": b""}, images_name="scans")  # type: ignore[arg-type]

    with pytest.raises(CertifyError, match=r"image 1\.pdf of scans: answered 422: undecodable"):
        certify._target(subject, (b"",), 1)


def test_nearly_equal_classes_are_both_right() -> None:
    # 0.36 is 0.9 of 0.4, 0.2 is half of it.
    predictions = [
        {"class_id": 7, "probability": 0.4},
        {"class_id": 3, "probability": 0.361},
        {"class_id": 5, "probability": 0.2},
    ]

    assert near_best(predictions) == {7, 3}


def test_no_label_above_the_threshold_is_a_right_answer_if_the_idle_server_gives_it() -> None:
    accepted = near_best([])
    of_two = dataclasses.replace(target(0), accepted=(accepted, frozenset({0})))

    assert of_two.is_right(0, b'{"predictions": []}')
    assert not of_two.is_right(1, b'{"predictions": []}')
    assert not of_two.is_right(0, prediction(0))


def test_replicas_stay_within_seven_tenths_of_their_highest_rate_with_one_missing() -> None:
    # A replica gets 0.7 × 100/s = 70/s: 70 needs one, 71 two, 210 exactly three; one is spare.
    for rate_per_s, expected in {1: 2, 70: 2, 71: 3, 140: 3, 210: 4, 1000: 16}.items():
        assert replicas_for(rate_per_s, 100) == expected
    document = (ROOT / "docs" / "deploy.md").read_text()
    assert "replicas = ceil(P / (0.7 · R)) + 1" in document
    assert "R = 90/s, P = 500/s → ceil(500 / 63) + 1 = 9 pods" in document
    assert replicas_for(500, 90) == 9


def test_the_proposal_shows_its_arithmetic() -> None:
    own = SLO.model_copy(update={"settings": {"CLASSIFIER_WORKERS": "5"}})

    text = proposal(SLO, 200)

    # 200 ÷ 70 = 2.857
    assert text.startswith("for 200/s: 4 replica(s)")
    assert "200/s ÷ (0.7 × 100/s) = 2.86, rounded up, and 1 that may be missing" in text
    assert "  CLASSIFIER_BUDGET_MS=50\n" in text
    assert f"as measured, {SLO.machine.cpu}, " in text
    assert "  CLASSIFIER_BUDGET_MS=50 CLASSIFIER_WORKERS=5\n" in proposal(own, 1)


def test_no_replicas_are_proposed_if_no_rate_is_within_the_budget() -> None:
    none = SLO.model_copy(update={"highest_rate_per_s": 0.0, "p50_ms": None, "p99_ms": None})

    with pytest.raises(CertifyError, match=r"one image costs 7\.0 ms .* certify a faster machine"):
        proposal(none, 1)


def test_without_a_model_the_command_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLASSIFIER_LOCK", str(tmp_path / "model.lock"))

    assert certify.main([]) == 1
    assert "import a model first" in capsys.readouterr().err
