"""The GPU benchmark, as far as it runs without a GPU."""

import json
from pathlib import Path

import pytest

from tools.benchmarks import gpu


def test_without_a_gpu_it_refuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "first_gpu", lambda _environ: None)

    status = gpu.main(["--results", str(tmp_path / "gpu.json")])

    assert status == 1
    assert capsys.readouterr().err == (
        "bench-gpu: no GPU is visible; run it on a machine with one\n"
    )
    assert not list(tmp_path.iterdir())


def test_each_step_is_stored_at_once_and_failures_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "results" / "gpu.json"
    stored: list[dict[str, object]] = []

    def fail() -> None:
        stored.append(json.loads(path.read_bytes()))
        raise MemoryError("out of memory")

    results = gpu.Results(path, seconds=1_000)
    done = [results.step("one", dict, [("rate", 3.5)]), results.step("two", fail)]
    late = gpu.Results(path, seconds=-1)
    found = {name: step["found"] for name, step in json.loads(path.read_bytes()).items()}
    done.append(late.step("three", lambda: 1))

    assert done == [True, False, False]
    assert [list(results) for results in stored] == [["one"]]
    assert found == {"one": {"rate": 3.5}, "two": "failed: MemoryError: out of memory"}
    assert json.loads(path.read_bytes())["three"]["found"] == "left out: the time was up"
