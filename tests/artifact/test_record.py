"""What was measured: beside the artifact, and no part of its digests."""

import json
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.record import read_record, read_slo
from tests.artifact.builder import RECORD, SLO, write_artifact


def test_what_was_measured_can_be_replaced_without_changing_the_artifact(tmp_path: Path) -> None:
    root = tmp_path / "artifact"
    root.mkdir()
    digest = write_artifact(root)
    before = open_artifact(root, digest)
    for budget_ms, rate in ((50, 100), (20, 30)):
        record = RECORD.model_copy(update={"budget_ms": budget_ms})
        slo = SLO.model_copy(update={"highest_rate_per_s": rate})
        (root / "record.json").write_bytes(record.to_json())
        (root / "slo.json").write_bytes(slo.to_json())

        opened = open_artifact(root, before.digest, before.evidence_digest)

        assert (opened.record, opened.slo) == (record, slo)
    assert (before.record, before.slo) == (None, None)


def test_a_record_that_plans_with_an_engine_without_certificate_is_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    plan = RECORD.plan.model_copy(update={"engine": "openvino-int8"})
    record = RECORD.model_copy(update={"plan": plan})
    (tmp_path / "record.json").write_bytes(record.to_json())

    with pytest.raises(ArtifactError, match=r"record\.json: plans .*which is not certified"):
        open_artifact(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{}"])
def test_a_damaged_record_or_rate_certificate_is_refused_in_one_line(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "record.json").write_bytes(data)
    (tmp_path / "slo.json").write_bytes(data)

    with pytest.raises(ArtifactError, match=r"record\.json: .*; import the model again$"):
        read_record(tmp_path)
    with pytest.raises(ArtifactError, match=r"slo\.json: .*; delete it, or measure again"):
        read_slo(tmp_path)


def test_a_record_of_another_schema_version_is_refused_and_one_without_is_read(
    tmp_path: Path,
) -> None:
    value = json.loads(RECORD.to_json())
    (tmp_path / "record.json").write_text(json.dumps(value | {"schema_version": 2}))
    with pytest.raises(ArtifactError, match=r"record\.json: schema_version: "):
        read_record(tmp_path)

    del value["schema_version"]
    (tmp_path / "record.json").write_text(json.dumps(value | {"imported_at": "2026-01-01"}))

    assert read_record(tmp_path) == RECORD  # midnight in UTC
