"""The import record: beside the artifact, not part of its digest."""

from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.record import (
    EngineAttempt,
    ImportRecord,
    LatencyPoint,
    Machine,
    Plan,
    read_record,
)
from image_classifier.inference.plan import stream_counts
from tests.artifact.builder import write_artifact

POINT = LatencyPoint(batch_size=1, streams=1, threads=2, latency_ms=3.5, images_per_s=280)
RECORD = ImportRecord(
    imported_at="2026-01-01T00:00:00+00:00",
    command="model_import.py --name insects",
    source_commit=None,
    machine=Machine(cpu="one", cores=2, features=("avx2",), accelerator=None),
    budget_ms=50,
    attempts=(
        EngineAttempt(engine="openvino-fp32", verdict="passed", curve=(POINT,)),
        EngineAttempt(engine="openvino-int8", verdict="failed", reason="too far off"),
    ),
    plan=Plan(engine="openvino-fp32", streams=1, threads=2, batch_sizes=(1,), service_time_ms=3.5),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(RECORD.to_json())

    assert read_record(tmp_path) == RECORD


@pytest.mark.parametrize("cores", [1, 96, 384])
def test_a_record_has_room_for_the_streams_of_large_machines(cores: int) -> None:
    points = [
        LatencyPoint(batch_size=1, streams=streams, threads=cores, latency_ms=1, images_per_s=1)
        for streams in stream_counts(cores)
    ]

    assert points[-1].streams == cores
    assert RECORD.plan.model_copy(update={"streams": cores, "threads": cores}) == Plan(
        engine="openvino-fp32", streams=cores, threads=cores, batch_sizes=(1,), service_time_ms=3.5
    )


def test_another_record_is_the_same_artifact(tmp_path: Path) -> None:
    digest = write_artifact(tmp_path)
    for record in (RECORD, RECORD.model_copy(update={"budget_ms": 20})):
        (tmp_path / "record.json").write_bytes(record.to_json())

        opened = open_artifact(tmp_path, digest)

        assert (opened.digest, opened.record) == (digest, record)


def test_the_curve_of_an_engine_that_was_not_measured_is_empty() -> None:
    assert RECORD.curve("openvino-fp32") == (POINT,)
    assert RECORD.curve("openvino-int8") == ()
    assert RECORD.curve("unheard-of") == ()


def test_without_a_record_there_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", RECORD.to_json().replace(b"plan", b"plam")])
def test_what_is_no_record_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "record.json").write_bytes(data)

    with pytest.raises(ArtifactError, match=r"record\.json: .*; import the model again") as refused:
        read_record(tmp_path)
    assert "\n" not in str(refused.value)
