"""Build a bento twice in different surroundings and compare the results byte by byte."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from image_classifier.artifact.format import describe_differences, file_names, sha256_tree
from tools.release import ReleaseError
from tools.release.building import bentoml_home
from tools.release.content import locked_model


class Surroundings(NamedTuple):
    """What must not influence a build; the clock needs `faketime` and is skipped without it."""

    folder: str
    umask: str
    locale: str
    time_zone: str
    clock: str


TWO = (
    Surroundings("a", "022", "C", "UTC", "2001-02-03 04:05:06"),
    Surroundings(
        "another place/with a longer name",
        "077",
        "tr_TR.UTF-8",
        "Pacific/Kiritimati",
        "2037-11-12 13:14:15",
    ),
)


def verify_rebuild(checkout: Path, bentofile: str) -> str:
    """Build in both surroundings and return a sentence about what was compared.

    Raises:
        ReleaseError: The bentos differ in a byte, a permission or a time.
    """
    with tempfile.TemporaryDirectory(prefix="image-classifier-rebuild-") as temporary:
        first, second = (_build(checkout, bentofile, Path(temporary), one) for one in TWO)
        expected, actual = _facts(first), _facts(second)
        if differences := describe_differences(expected, actual):
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise ReleaseError(
                f"the second build differs from the first: {differences[0]}{more}; please report it"
            )
    clock = "clock, " if shutil.which("faketime") else ""
    return (
        f"identical: {len(expected)} files, version {first.name}; different: directory, home, "
        f"umask, locale, {clock}time zone"
    )


def _build(checkout: Path, bentofile: str, temporary: Path, surroundings: Surroundings) -> Path:
    copy = temporary / surroundings.folder / "checkout"
    home = temporary / surroundings.folder / "home"
    # Without history, environments and what a build does not read.
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "tests")
    shutil.copytree(checkout, copy, ignore=unwanted)
    model = locked_model(copy)
    shutil.copytree(bentoml_home() / model, home / "bentoml" / model)
    clock = ["faketime", "-f", f"@{surroundings.clock}"] if shutil.which("faketime") else []
    build = [
        *clock,
        sys.executable,
        "-m",
        "tools.release",
        "build",
        "--skip-start",
        "-f",
        bentofile,
    ]
    done = subprocess.run(  # noqa: S603
        ["sh", "-c", f'umask {surroundings.umask} && exec "$@"', "sh", *build],  # noqa: S607
        cwd=copy,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LC_ALL": surroundings.locale,
            "TZ": surroundings.time_zone,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ReleaseError(f"{copy}: {done.stderr.strip() or done.stdout.strip()}")
    return Path(done.stdout.strip().splitlines()[-1])


def _facts(root: Path) -> dict[str, str]:
    """Return digest, permissions and time of each file, by name."""
    digests = sha256_tree(root, file_names(root))
    status = {name: (root / name).stat() for name in digests}
    return {
        name: f"{digest} {status[name].st_mode:o} {status[name].st_mtime_ns}"
        for name, digest in digests.items()
    }
