"""Session files keep every latency, to three digits."""

from pathlib import Path

import pytest

from tests.tools.benchmarks.samples import case_result, session, visit
from tests.tools.runs import run
from tools.benchmarks.session import BenchmarkError, read_session, this_machine, write_session


def test_a_session_is_read_as_it_was_written(tmp_path: Path) -> None:
    closed = run(rate_per_s=None, connections=6, latencies_ms=(0.001, 12.3, 60_000.0))
    written = session(case_result(visit("peer", closed, run(failed={"429": 3}))))

    path = write_session(written, tmp_path)

    assert path.name == "2026-01-02T0304-0123456789-full.json"
    assert read_session(path) == written
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_kind_of_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "2026-01-01-abc-full.json"
    path.write_text('{"schema_version": 1}')

    with pytest.raises(BenchmarkError, match=r"2026-01-01-abc-full\.json: not a session"):
        read_session(path)


def test_a_limit_of_the_instruction_set_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")

    machine = this_machine()

    assert machine.cpu.endswith(" (limited to AVX2)")
    assert not any("avx512" in feature for feature in machine.features)
