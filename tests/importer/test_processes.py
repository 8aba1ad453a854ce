"""The command line as a process: a signal or a full disk leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from importer.errors import ImportRefused
from importer.process import uninterrupted
from importer.progress import Progress
from tests.imports import PATIENCE_S, ROOT, command_line, digits_options, import_quietly
from tests.programs import run_python


def command(home: Path, *more: str) -> list[str]:
    options = digits_options(lock=home / "model.lock")
    return [sys.executable, str(ROOT / "model_import.py"), *command_line(options), *more]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(home), "BENTOML_HOME": str(home / "bentoml")}


@pytest.mark.slow
def test_an_interrupted_import_leaves_store_and_lock_unchanged(tmp_path: Path) -> None:
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
    assert list((tmp_path / "bentoml" / "models").iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk.
    limited = (
        "import resource, runpy, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    _, *arguments = command(tmp_path, "--quiet")
    variables = {**environment(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_python(limited, *arguments, env=variables)

    assert done.returncode == 1
    message = r"/weights\.safetensors: .*File too large.*; make room in the store; the output .*\S+"
    assert re.fullmatch(rf"model_import: \S+{message}\n", done.stderr), done.stderr
    assert not (tmp_path / "model.lock").exists()
    assert list((tmp_path / "bentoml" / "models").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_ignored_only_while_store_and_lock_change(number: signal.Signals) -> None:
    received: list[int] = []
    before = signal.signal(number, lambda number, _: received.append(number))
    try:
        with uninterrupted():
            os.kill(os.getpid(), number)
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]
    finally:
        signal.signal(number, before)


def test_commands_that_run_no_engine_load_no_torch() -> None:
    done = run_python("import importer.commands, sys; print('torch' in sys.modules)")

    assert (done.stdout, done.stderr) == ("False\n", "")


def test_an_import_beside_other_programs_says_that_speeds_may_be_too_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.04, 0, 0))
    (tmp_path / "empty.pth").touch()
    options = digits_options(weights=str(tmp_path / "empty.pth"))

    with pytest.raises(ImportRefused, match=r"empty\.pth"):
        import_quietly(options, tmp_path / "model.lock", Progress(quiet=False))

    assert "other programs are running (load average 1000.0" in capsys.readouterr().err
