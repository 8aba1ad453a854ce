"""The certificate of a rate: beside the artifact, not part of its digest."""

from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.record import Machine, Plan, SloCertificate, read_slo, write_slo
from tests.artifact.builder import write_artifact

SLO = SloCertificate(
    measured_at="2026-01-01T00:00:00+00:00",
    commit="0123456789",
    machine=Machine(cpu="one", cores=2, features=("avx2",), accelerator=None),
    images="golden",
    image_count=2,
    topology="embedded",
    settings={"CLASSIFIER_BUDGET_MS": "50"},
    plan=Plan(engine="openvino-fp32", streams=2, threads=2, batch_sizes=(1,), service_time_ms=7.0),
    budget_ms=50,
    highest_rate_per_s=100,
    first_failed_rate_per_s=104,
    p50_ms=12.5,
    p99_ms=48.0,
    saturated_per_s=130,
    ready_s=2.5,
    rule="bisection",
)


def test_a_certificate_belongs_to_the_artifact_without_changing_its_digest(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    root.mkdir()
    digest = write_artifact(root)
    for slo in (SLO, SLO.model_copy(update={"highest_rate_per_s": 20.0})):
        write_slo(root, slo)

        opened = open_artifact(root, digest)

        assert (opened.digest, opened.slo) == (digest, slo)


def test_writing_leaves_nothing_else_behind(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    root.mkdir()

    assert write_slo(root, SLO) == root / "slo.json"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["artifact", "slo.json"]


def test_without_a_certificate_there_is_none(tmp_path: Path) -> None:
    write_artifact(tmp_path)

    assert open_artifact(tmp_path).slo is None


@pytest.mark.parametrize("data", [b"", b"{}", SLO.to_json().replace(b"rule", b"rul")])
def test_what_is_no_certificate_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "slo.json").write_bytes(data)

    with pytest.raises(ArtifactError, match=r"slo\.json: .*; delete it") as refused:
        read_slo(tmp_path)
    assert "\n" not in str(refused.value)
