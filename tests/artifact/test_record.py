"""Measurements of an artifact, which are not part of its digests."""

import json
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.record import read_record, read_slo
from tests.artifact.builder import RECORD, SLO, write_artifact


def test_measurements_can_be_added_and_replaced_without_changing_the_digests(
    tmp_path: Path,
) -> None:
    write_artifact(tmp_path)
    before = open_artifact(tmp_path)
    for rate in (100, 30):
        slo = SLO.model_copy(update={"highest_rate_per_s": rate})
        record = RECORD.model_copy(update={"budget_ms": rate})
        (tmp_path / "record.json").write_bytes(record.to_json())
        (tmp_path / "slo.json").write_bytes(slo.to_json())

        opened = open_artifact(tmp_path, before.digest, before.evidence_digest)

        assert (opened.record, opened.slo) == (record, slo)
    assert (before.record, before.slo) == (RECORD, None)


def test_a_damaged_record_or_slo_certificate_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(b"{}")
    (tmp_path / "slo.json").write_bytes(b"")

    with pytest.raises(ArtifactError, match=r"record\.json: .*; import the model again$"):
        read_record(tmp_path)
    with pytest.raises(ArtifactError, match=r"slo\.json: .*; delete it, or measure again"):
        read_slo(tmp_path)


def test_a_record_may_lack_a_schema_version_but_not_have_another(tmp_path: Path) -> None:
    value = json.loads(RECORD.to_json())
    (tmp_path / "record.json").write_text(json.dumps(value | {"schema_version": 2}))
    with pytest.raises(ArtifactError, match=r"record\.json: schema_version: "):
        read_record(tmp_path)

    del value["schema_version"]
    (tmp_path / "record.json").write_text(json.dumps(value | {"imported_at": "2026-01-01"}))

    assert read_record(tmp_path) == RECORD  # midnight in UTC
