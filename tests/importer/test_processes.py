"""The command line in processes of its own: the same tag anywhere, nothing left after a signal."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.store import read_lock, staging_dir
from tests.imports import DIGITS, PATIENCE_S, ROOT, SAMPLES, isolated_store

pytestmark = pytest.mark.slow


def command(home: Path, *more: str, golden: Path = SAMPLES) -> list[str]:
    return [
        sys.executable, str(ROOT / "model_import.py"), "--name", "digits",
        "--network", f"{DIGITS}/network.py:build",
        "--weights", str(DIGITS / "weights.safetensors"),
        "--preprocessing", f"{DIGITS}/preprocessing.py:DigitsPreprocessing",
        "--labels", str(DIGITS / "labels.txt"), "--golden", str(golden),
        "--measure-seconds", "0.001", "--lock", str(home / "model.lock"), *more,
    ]  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    """As of a person at a terminal: Python writes bytecode."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "BENTOML_HOME": str(home / "bentoml"), "BENTOML_DO_NOT_TRACK": "true"}


def test_another_process_in_another_folder_makes_the_same_artifact(
    tmp_path: Path, digits_folder: Path
) -> None:
    done = subprocess.run(
        command(tmp_path, "--json"),
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tag"] == f"digits:{digits_folder.name}"
    assert [one["verdict"] for one in result["record"]["attempts"]] == ["passed", "passed"]
    lock = read_lock(tmp_path / "model.lock")
    assert lock.manifest_sha256 == result["manifest_sha256"]
    assert lock.evidence_sha256 == result["evidence_sha256"]
    folder = tmp_path / "bentoml" / "models" / "digits" / digits_folder.name
    assert open_artifact(folder, result["manifest_sha256"]).record is not None
    assert not list((tmp_path / "bentoml").rglob("*.pyc"))


def stopped_in_the_middle(home: Path, by: signal.Signals) -> tuple[int, str]:
    """Start an import and send a signal while it exports; exit status and last line."""
    (home / "bentoml" / "models").mkdir(parents=True)
    (home / "model.lock").write_text("the lock of another model")
    process = subprocess.Popen(
        command(home), cwd=home, env=environment(home), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said = line
        if "run the reference" in line:
            process.send_signal(by)
            break
    rest = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=PATIENCE_S), (rest.strip().splitlines() or [said])[-1]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_import_leaves_store_and_lock_as_they_were(
    tmp_path: Path, by: signal.Signals
) -> None:
    status, last = stopped_in_the_middle(tmp_path, by)

    assert status == 130
    assert last == "model_import: interrupted; the store and the lock are as they were"
    assert (tmp_path / "model.lock").read_text() == "the lock of another model"
    assert [path for path in (tmp_path / "bentoml").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "bentoml" / "models").iterdir()) == []


def test_a_killed_import_leaves_a_staging_directory_that_the_next_one_removes(
    tmp_path: Path,
) -> None:
    status, _ = stopped_in_the_middle(tmp_path, signal.SIGKILL)

    assert status == -signal.SIGKILL
    assert (tmp_path / "model.lock").read_text() == "the lock of another model"
    (left,) = (tmp_path / "bentoml" / "models").iterdir()
    with isolated_store(tmp_path / "next") as home:
        found = left.rename(home / "models" / left.name)
        with staging_dir() as root:
            assert not found.exists()
            assert root.is_dir()


@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (50, r"network\.py → \S+/architecture/network\.py: File too large"),
        (60_000, r"\S+/weights\.safetensors: .*File too large.*; make room in the store"),
    ],
)  # bytes a file may have, in place of a disk that is full after as many
def test_a_full_disk_is_one_line_and_changes_nothing(
    tmp_path: Path, largest: int, said: str
) -> None:
    limited = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest})); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python, *arguments = command(tmp_path, "--quiet")
    done = subprocess.run(
        [python, "-c", limited, *arguments],
        cwd=ROOT,
        env={**environment(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 1
    assert re.fullmatch(f"model_import: .*{said}\n", done.stderr), done.stderr
    assert not (tmp_path / "model.lock").exists()
    assert list((tmp_path / "bentoml" / "models").iterdir()) == []
