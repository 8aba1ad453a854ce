"""`make setup`: what it installs, when it does nothing, and what it prints."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.imports import PATIENCE_S, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheels of two packages that hold nothing."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("first", "second"):
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
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
    return subprocess.run(
        [sys.executable, ROOT / "tools/environment.py", folder / "venv", folder / "lock.txt"],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def installed(folder: Path) -> set[str]:
    return {path.name.partition("-")[0] for path in folder.glob("venv/lib/*/site-packages/*-info")}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> tuple[Path, str]:
    """A folder with a lock and the environment made from it, and what was printed."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "lock.txt").write_text(lock_of(wheels, "first", "second"))
    done = set_up(folder, wheels)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def folder(original: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the original, to be changed."""
    shutil.copytree(original[0], tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_the_packages_of_the_lock_are_installed_and_each_step_is_one_line(
    original: tuple[Path, str],
) -> None:
    folder, printed = original

    assert {"first", "second"} <= installed(folder)
    creating, installing, unpacking, ready = printed.splitlines()
    assert creating.startswith("[1/2] creating ")
    assert installing.startswith("[2/2] installing 2 packages of ")
    assert unpacking.strip() == "unpacking 2 packages"
    assert ready.startswith("ready: ")


def test_an_unchanged_lock_with_a_newer_time_stamp_changes_nothing(
    folder: Path, wheels: Path
) -> None:
    (folder / "lock.txt").touch()
    shutil.rmtree(folder / "venv" / "bin")  # any step would need it

    done = set_up(folder, wheels)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_package_that_left_the_lock_is_removed_and_the_rest_stays(
    folder: Path, wheels: Path
) -> None:
    (folder / "lock.txt").write_text(lock_of(wheels, "second"))
    (folder / "venv" / "mine").write_text("a person's own file")

    done = set_up(folder, wheels)

    assert "removing first, which the lock does not name" in done.stdout
    assert installed(folder) & {"first", "second"} == {"second"}
    assert (folder / "venv" / "mine").exists()


def test_a_failure_shows_the_end_of_pips_output_and_leaves_the_environment_unfinished(
    folder: Path, wheels: Path
) -> None:
    missing = f"absent==1.0 --hash=sha256:{'0' * 64}\n"
    (folder / "lock.txt").write_text(lock_of(wheels, "first") + missing)

    done = set_up(folder, wheels)

    assert done.returncode == 1
    assert "No matching distribution found for absent==1.0" in done.stderr
    assert done.stderr.rstrip().endswith("setup: pip failed with status 1, see above")
    assert not (folder / "venv" / ".installed").exists()
