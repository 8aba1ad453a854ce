"""The command line in processes of its own: the same tag anywhere, nothing left after a signal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.store import read_lock, staging_dir
from importer.process import uninterrupted
from tests.imports import DIGITS, PATIENCE_S, ROOT, SAMPLES, isolated_store
from tests.service.server import wait_until


def command(home: Path, *more: str, golden: Path = SAMPLES) -> list[str]:
    return [
        sys.executable, str(ROOT / "model_import.py"), "--name", "digits",
        "--network", f"{DIGITS}/network.py:build",
        "--weights", str(DIGITS / "weights.safetensors"),
        "--preprocessing", f"{DIGITS}/preprocessing.py:DigitsPreprocessing",
        "--labels", str(DIGITS / "labels.txt"), "--golden", str(golden),
        "--golden-labels", str(DIGITS / "labels.csv"),
        "--measure-seconds", "0.001", "--lock", str(home / "model.lock"), *more,
    ]  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    """As of a person at a terminal: Python writes bytecode."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **kept,
        "TMPDIR": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
    }


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (50, r"network\.py → \S+/architecture/network\.py: File too large"),
        (
            60_000,
            r"\S+/weights\.safetensors: .*File too large.*; make room in the store; what the .*\S+",
        ),
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


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_store_and_lock_change_together_whatever_signal_comes(
    handlers: None, number: signal.Signals
) -> None:
    heard = []
    signal.signal(number, lambda *_: heard.append("before and after"))
    steps = []

    with uninterrupted():
        steps.append("store")
        os.kill(os.getpid(), number)
        steps.append("lock")
    os.kill(os.getpid(), number)

    assert steps == ["store", "lock"]
    assert heard == ["before and after"]


def read(entry: Path) -> str:
    """What the kernel says there, nothing where the process ended before it was asked."""
    try:
        return entry.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(process_id: int) -> list[int]:
    tasks = Path("/proc", str(process_id), "task").glob("*/children")
    return [int(child) for task in tasks for child in read(task).split()]


def quantising(home: Path) -> tuple[subprocess.Popen[str], int]:
    """An import in the middle of its quantisation, and the process that does it."""
    process = subprocess.Popen(
        command(home, "--precision", "int8"),
        cwd=ROOT,
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        for child in children(process.pid):
            if "importer.quantise" in read(Path("/proc", str(child), "cmdline")):
                return process, child
        time.sleep(0.02)  # what is waited for is in another process and cannot wake this one
    process.kill()
    raise AssertionError(process.communicate()[1])


def stat(process_id: int) -> list[str]:
    """Fields of proc(5) from the state on, nothing where the process is gone."""
    return read(Path("/proc", str(process_id), "stat")).rpartition(")")[2].split()


def has_ended(process_id: int) -> bool:
    """Gone, or a zombie, which nobody has asked how it ended."""
    return stat(process_id)[:1] in ([], ["Z"])


def processor_seconds(process_id: int) -> float:
    """User and system time so far; a zombie still tells."""
    return sum(map(int, stat(process_id)[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.all
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_the_process_of_the_quantisation_ends_with_the_import(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process, child = quantising(tmp_path)

    before = processor_seconds(child)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode == status
    wait_until(lambda: has_ended(child), PATIENCE_S, "the end of the quantisation")
    # It was ended; by itself it would go on for seconds.
    assert processor_seconds(child) < before + 1.5
    assert not (tmp_path / "model.lock").exists()
    left = [path.name for path in (tmp_path / "bentoml").glob("models/*")]
    # Killed, it leaves its staging directory, which the next import removes.
    assert len(left) == (number == signal.SIGKILL), left
    assert "digits" not in left
