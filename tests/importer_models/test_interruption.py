"""Signals: an import ends soon, with all its processes, and never between store and lock."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from importer.interruption import uninterrupted

from tests.imports import DIGITS, PATIENCE_S, ROOT, SAMPLES
from tests.service.server import wait_until

NATIVE_CALL = """
import hashlib
import importer.interruption as interruption

interruption.GRACE_S = 0.2
interruption.end_on_signals()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes, in C, without Python
"""


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_belongs_together_is_finished(handlers: None, number: signal.Signals) -> None:
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


def test_a_call_that_python_cannot_interrupt_is_ended_after_a_moment() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NATIVE_CALL], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    ready_at = processor_seconds(process.pid)
    wait_until(
        lambda: processor_seconds(process.pid) > ready_at + 0.2, PATIENCE_S, "the native call"
    )

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    assert err == "model_import: interrupted; the store and the lock are as they were\n"


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
    arguments = ["--name", "digits", "--network", f"{DIGITS}/network.py:build"]
    arguments += ["--weights", str(DIGITS / "weights.safetensors"), "--precision", "int8"]
    arguments += ["--preprocessing", f"{DIGITS}/preprocessing.py:DigitsPreprocessing"]
    arguments += ["--labels", str(DIGITS / "labels.txt"), "--golden", str(SAMPLES)]
    process = subprocess.Popen(
        [sys.executable, "model_import.py", *arguments, "--lock", str(home / "model.lock")],
        cwd=ROOT,
        env={**os.environ, "BENTOML_HOME": str(home / "bentoml"), "PYTHONDONTWRITEBYTECODE": "1"},
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


@pytest.mark.slow
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
    # Killed, it leaves its draft, which the next import removes.
    assert len(left) == (number == signal.SIGKILL), left
    assert "digits" not in left
