"""The command line in processes of its own: nothing is left after a signal or on a full disk."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from importer.process import uninterrupted
from tests.imports import PATIENCE_S, ROOT, command_line, digits_options
from tests.service.server import wait_until


def command(home: Path, *more: str) -> list[str]:
    options = digits_options(lock=home / "model.lock")
    return [sys.executable, str(ROOT / "model_import.py"), *command_line(options), *more]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(home), "BENTOML_HOME": str(home / "bentoml")}


@pytest.mark.slow
def test_an_interrupted_import_leaves_store_and_lock_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "bentoml" / "models").mkdir(parents=True)
    (tmp_path / "model.lock").write_text("the lock of another model")
    process = subprocess.Popen(
        command(tmp_path), cwd=tmp_path, env=environment(tmp_path), stderr=-1, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "run the reference" in line:
            process.send_signal(signal.SIGTERM)
            break

    _, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    last = "model_import: interrupted; the store and the lock are as they were"
    assert err.splitlines()[-1] == last
    assert (tmp_path / "model.lock").read_text() == "the lock of another model"
    assert [path for path in (tmp_path / "bentoml").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "bentoml" / "models").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    # Bytes a file may have, in place of a disk that is full after as many.
    limited = (
        "import resource, runpy, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
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
    )

    assert done.returncode == 1
    said = r"\S+/weights\.safetensors: .*File too large.*; make room in the store; what the .*\S+"
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


def quantising(home: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """An import in the middle of its quantisation, and the process that does it."""
    process = subprocess.Popen(
        command(home, "--precision", "int8"),
        cwd=ROOT,
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
    )
    found: list[psutil.Process] = []

    def begun() -> bool:
        assert process.poll() is None
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "importer.quantise" in child.cmdline():
                    found.append(child)
        return bool(found)

    try:
        wait_until(begun, PATIENCE_S, "the quantisation")
    except BaseException:
        process.kill()
        raise
    return process, found[0]


@pytest.mark.all
def test_the_process_of_the_quantisation_ends_with_an_interrupted_import(tmp_path: Path) -> None:
    process, child = quantising(tmp_path)
    before = sum(child.cpu_times()[:2])
    spent = before

    def ended() -> bool:
        nonlocal spent
        try:
            spent = sum(child.cpu_times()[:2])
            return bool(child.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130
    wait_until(ended, PATIENCE_S, "the end of the quantisation")
    assert spent < before + 1.5  # it was ended; by itself it would go on for seconds
    assert not (tmp_path / "model.lock").exists()
    assert list((tmp_path / "bentoml").glob("models/*")) == []
