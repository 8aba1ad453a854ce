"""Two builds of one commit, lock and model in different surroundings, compared byte by byte."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from image_classifier.artifact.format import describe_differences, file_names, sha256_tree
from image_classifier.artifact.store import LOCK_NAME, read_lock
from release.building import bentoml_home
from release.errors import ReleaseError


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What must not show in a build.

    Attributes:
        umask: Octal text.
        clock: Moment `faketime` shows to the build; the true one where faketime is missing.
    """

    folder: str
    umask: str
    locale: str
    time_zone: str
    clock: str


TWO = (
    Surroundings(folder="a", umask="022", locale="C", time_zone="UTC", clock="2001-02-03 04:05:06"),
    Surroundings(
        folder="another place/with a longer name",
        umask="077",
        locale="tr_TR.UTF-8",
        time_zone="Pacific/Kiritimati",
        clock="2037-11-12 13:14:15",
    ),
)


def verify_rebuild(checkout: Path, bentofile: str) -> str:
    """Build in both surroundings; returns what was compared.

    Raises:
        ReleaseError: The builds differ.
    """
    with tempfile.TemporaryDirectory(prefix="image-classifier-rebuild-") as temporary:
        first, second = (
            _build(checkout, bentofile, Path(temporary), surroundings) for surroundings in TWO
        )
        expected, actual = (_everything(one) for one in (first, second))
        if differences := describe_differences(expected, actual):
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise ReleaseError(
                f"the second build: {differences[0]}{more}; expected the bytes, permissions and "
                "times of the first; report it"
            )
    clock = "clock, " if shutil.which("faketime") else ""
    return (
        f"identical: {len(expected)} files, version {first.name}; different: directory, home, "
        f"umask, locale, {clock}time zone"
    )


def _build(checkout: Path, bentofile: str, root: Path, surroundings: Surroundings) -> Path:
    place = root / surroundings.folder
    copy, home = place / "checkout", place / "home"
    _copy_sources(checkout, copy)
    tag = read_lock(copy / LOCK_NAME).tag.replace(":", "/")
    shutil.copytree(bentoml_home() / "models" / tag, home / "bentoml" / "models" / tag)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": surroundings.locale,
        "TZ": surroundings.time_zone,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    clock = ["faketime", "-f", f"@{surroundings.clock}"] if shutil.which("faketime") else []
    build = [*clock, sys.executable, "-m", "release", "build", "-f", bentofile]
    done = subprocess.run(  # noqa: S603
        ["sh", "-c", f'umask {surroundings.umask} && exec "$@"', "sh", *build],  # noqa: S607
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ReleaseError(f"{copy}: {done.stderr.strip() or done.stdout.strip()}")
    return Path(done.stdout.strip().splitlines()[-1])


def _copy_sources(checkout: Path, copy: Path) -> None:
    """A copy without the checkout's history, environment and left-overs."""
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "tests", "benchmarks")
    shutil.copytree(checkout, copy, ignore=unwanted)


def _everything(root: Path) -> dict[str, str]:
    """Digest, permissions and time of each file, by name."""
    digests = sha256_tree(root, file_names(root))
    facts = {name: (root / name).stat() for name in digests}
    return {
        name: f"{digest} {facts[name].st_mode:o} {facts[name].st_mtime_ns}"
        for name, digest in digests.items()
    }
