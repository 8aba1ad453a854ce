"""Build a bento twice in different surroundings and compare the results byte by byte."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from image_classifier.artifact.format import describe_differences, file_names, sha256_tree
from importer.progress import Progress
from tools.release import ReleaseError
from tools.release.building import bentoml_home
from tools.release.content import locked_model

SURROUNDINGS = (
    ("a", 0o022, "C", "UTC"),
    ("another place/with a longer name", 0o077, "tr_TR.UTF-8", "Pacific/Kiritimati"),
)
"""Directory, umask, locale and time zone: none may influence a build."""


def verify_rebuild(checkout: Path, bentofile: str, progress: Progress) -> str:
    """Build in both surroundings and return a sentence about the comparison.

    Raises:
        ReleaseError: The bentos differ in a byte, permission or time.
    """
    with tempfile.TemporaryDirectory(prefix="image-classifier-rebuild-") as temporary:
        roots = []
        for number, surroundings in enumerate(SURROUNDINGS, start=1):
            with progress.step(f"build {number} of {len(SURROUNDINGS)}"):
                roots.append(_build(checkout, bentofile, Path(temporary), *surroundings))
        expected, actual = map(_facts, roots)
        if differences := describe_differences(expected, actual):
            raise ReleaseError(
                f"the second build differs from the first: {differences}; please report it"
            )
    return (
        f"identical: {len(expected)} files, version {roots[0].name}; different: directory, home, "
        "umask, locale, time zone"
    )


def _build(
    checkout: Path, bentofile: str, temporary: Path, folder: str, umask: int, *zone: str
) -> Path:
    copy, home = temporary / folder / "checkout", temporary / folder / "home"
    # Without history, environments and directories that a build does not read.
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "tests")
    shutil.copytree(checkout, copy, ignore=unwanted)
    model = locked_model(copy)
    shutil.copytree(bentoml_home() / model, home / "bentoml" / model)
    command = [sys.executable, "-m", "tools.release", "build", "--skip-start", "-f", bentofile]
    done = subprocess.run(  # noqa: S603
        command,
        cwd=copy,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONDONTWRITEBYTECODE": "1",
            **dict(zip(("LC_ALL", "TZ"), zone, strict=True)),
        },
        capture_output=True,
        text=True,
        umask=umask,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise ReleaseError(f"{copy}: {last}")
    return Path(done.stdout.strip().splitlines()[-1])


def _facts(root: Path) -> dict[str, str]:
    """Return digest, permissions and time of each file, by name."""
    facts = {}
    for name, digest in sha256_tree(root, file_names(root)).items():
        status = (root / name).stat()
        facts[name] = f"{digest} {status.st_mode:o} {status.st_mtime_ns}"
    return facts
