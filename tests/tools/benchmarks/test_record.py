"""Percentiles by hand; what is written is read back."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.record import Machine, Run, Session
from benchmarks.results import (
    GZIP_ABOVE_BYTES,
    RecordError,
    newest_by_model,
    newest_of,
    newest_result,
    read_session,
    write_session,
)


def run(**changes: Any) -> Run:
    given: dict[str, Any] = {
        "server": "tiny",
        "model": "none",
        "images": "digits",
        "mode": "open",
        "offered_rate_per_s": 10.0,
        "seed": 1,
        "duration_s": 1.0,
        "elapsed_s": 2.0,
        "latencies_ms": (5.0, 1.0, 4.0, 2.0, 3.0),
    }
    return Run(**given | changes)


def session(*runs: Run) -> Session:
    machine = Machine(
        cpu_model="a processor",
        cpu_count=2,
        cpu_features=("avx2",),
        memory_gb=4.0,
        kernel="6",
        affinity=(0, 1),
    )
    return Session(
        name="quick",
        date="2026-11-22T12:00:00+00:00",
        commit="0123456789",
        machine=machine,
        versions={"benchmark": {"numpy": "2"}},
        runs=runs,
    )


# Nearest rank of n = 5: the sample of rank ceil(p / 100 · 5).
@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1.0), (20, 1.0), (21, 2.0), (50, 3.0), (99, 5.0), (100, 5.0)]
)
def test_a_percentile_is_a_latency_that_some_request_had(percent: float, expected: float) -> None:
    assert run().percentile_ms(percent) == expected


def test_without_answers_every_percentile_is_infinite() -> None:
    assert run(latencies_ms=()).percentile_ms(50) == math.inf


def test_only_right_answers_make_throughput() -> None:
    # 5 answers, 1 of them wrong, in 2 s.
    assert run(wrong=1).answered_per_s == 2.0


def test_an_open_run_needs_its_rate() -> None:
    with pytest.raises(ValidationError, match="offered rate"):
        run(offered_rate_per_s=None)


def test_a_session_survives_its_file(tmp_path: Path) -> None:
    written = session(run(failed={"429": 2}, send_skew_ms=(0.125,)))

    path = write_session(written, tmp_path)

    assert path.name == "2026-11-22-0123456789-quick.json"
    assert read_session(path) == written


def test_a_large_session_is_gzipped_and_survives_too(tmp_path: Path) -> None:
    written = session(run(latencies_ms=tuple(map(float, range(GZIP_ABOVE_BYTES // 4)))))

    write_session(session(), tmp_path)  # the same one, when it had begun
    path = write_session(written, tmp_path)

    assert list(tmp_path.iterdir()) == [path]
    assert path.suffixes == [".json", ".gz"]
    assert path.stat().st_size < GZIP_ABOVE_BYTES
    assert read_session(path) == written


@pytest.mark.parametrize("content", [b"{}", b"not json", b'{"schema_version": 2}'])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)

    with pytest.raises(RecordError, match=r"other\.json"):
        read_session(path)


def stored(folder: Path, name: str, date: str, commit: str = "aa") -> Path:
    changes = {"name": name, "date": date, "commit": commit}
    return write_session(session().model_copy(update=changes), folder)


def test_a_full_session_goes_before_a_later_quick_one(tmp_path: Path) -> None:
    full = stored(tmp_path, "full", "2026-11-20T10:00:00+00:00")
    stored(tmp_path, "quick", "2026-11-21T10:00:00+00:00")
    (tmp_path / "preprocessing.json").touch()

    assert newest_result(tmp_path) == full


def test_of_one_day_the_later_hour_is_newer_whatever_the_commit(tmp_path: Path) -> None:
    later = stored(tmp_path, "full", "2026-11-20T15:00:00+00:00", commit="aa-dirty")
    stored(tmp_path, "full", "2026-11-20T09:00:00+00:00", commit="ff")

    found = newest_of(tmp_path, "full")

    assert found is not None
    assert found[0] == later


def test_each_model_has_its_newest_try_of_a_promise(tmp_path: Path) -> None:
    stored(tmp_path, "hold-digits-fp32", "2026-11-20T09:00:00+00:00")
    digits = stored(tmp_path, "hold-digits-fp32", "2026-11-21T09:00:00+00:00")
    network = stored(tmp_path, "hold-resnet50-int8", "2026-11-19T09:00:00+00:00")
    stored(tmp_path, "overload-digits-fp32", "2026-11-22T09:00:00+00:00")

    assert [path for path, _ in newest_by_model(tmp_path, "hold")] == [digits, network]


def test_no_result_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="make bench"):
        newest_result(tmp_path)
