"""`make setup`: what it installs, when it does nothing, and what it prints."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.imports import ROOT
from tests.programs import run_program

pytestmark = pytest.mark.slow


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with wheels of two packages that hold nothing, and a newer one of the second."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, version, more in (
        ("first", "1.0", "Requires-Dist: second[extra]>=1.0\n"),
        ("second", "1.0", "Provides-Extra: extra\n"),
        ("second", "2.0", "Provides-Extra: extra\n"),
    ):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
            wheel.writestr(f"{info}/METADATA", metadata)
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def lock_of(wheels: Path, *names: str) -> str:
    digests = {
        name: hashlib.sha256((wheels / f"{name}-1.0-py3-none-any.whl").read_bytes()).hexdigest()
        for name in names
    }
    return "".join(f"{name}==1.0 --hash=sha256:{digests[name]}\n" for name in names)


def set_up(folder: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, ROOT / "tools/environment.py", folder / "venv", folder / "lock.txt")
    return run_program(
        *command, env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    )


def installed(folder: Path) -> set[str]:
    return {path.name.partition("-")[0] for path in folder.glob("venv/lib/*/site-packages/*-info")}


def test_the_environment_follows_its_lock_and_each_step_is_one_line(
    tmp_path: Path, wheels: Path
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(lock_of(wheels, "first", "second"))
    done = set_up(tmp_path, wheels)

    assert installed(tmp_path) >= {"first", "second"}
    creating, installing, *_, ready = done.stdout.splitlines()
    assert creating.startswith("[1/2] creating ")
    assert installing.startswith("[2/2] installing 2 packages of ")
    assert ready.startswith("ready: ")

    # An unchanged lock with a newer time stamp changes nothing: any step would need the programs.
    lock.touch()
    programs, aside = tmp_path / "venv" / "bin", tmp_path / "aside"
    programs.rename(aside)
    done = set_up(tmp_path, wheels)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    aside.rename(programs)

    # A package that left the lock is removed, and what a person added stays.
    lock.write_text(lock_of(wheels, "second"))
    (tmp_path / "venv" / "mine").touch()
    done = set_up(tmp_path, wheels)
    assert "removing first, which the lock does not name" in done.stdout
    assert installed(tmp_path) & {"first", "second"} == {"second"}
    assert (tmp_path / "venv" / "mine").exists()

    # A failure shows pip's output and leaves the environment unfinished.
    lock.write_text(lock_of(wheels, "first") + f"absent==1.0 --hash=sha256:{'0' * 64}\n")
    done = set_up(tmp_path, wheels)
    assert done.returncode == 1
    assert "No matching distribution found for absent==1.0" in done.stderr
    assert done.stderr.rstrip().endswith("setup: pip failed with status 1, see above")
    assert not (tmp_path / "venv" / ".installed").exists()
