"""Writes tests/artifact/stored/v<schema version>: `python -m tests.artifact.make_stored`.

The folder holds the digits example as this version of the program imports it, and its lock. Every
later version must serve, list, show and verify it (test_stored.py), so a folder that a release
contains is never written again: a change of the format gets a folder of its own.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from image_classifier.artifact.format import SCHEMA_VERSION
from image_classifier.artifact.store import locate
from tests.imports import digits_options, import_quietly, isolated_store

STORED = Path(__file__).parent / "stored"


def main() -> None:
    """Import the example and copy what the import wrote."""
    folder = STORED / f"v{SCHEMA_VERSION}"
    if folder.exists():
        sys.exit(f"{folder}: exists; remove it if no release contains it")
    with tempfile.TemporaryDirectory() as home, isolated_store(Path(home)):
        lock = Path(home) / "model.lock"
        imported = import_quietly(digits_options(), lock)
        shutil.copytree(locate(imported.lock.tag), folder / "artifact")
        shutil.copy(lock, folder)


if __name__ == "__main__":
    main()
