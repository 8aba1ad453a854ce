"""Writes tests/artifact/stored/v<schema version>: `python -m tests.artifact.make_stored`.

The folder holds the digits example as imported by this version of the program, and its lock. Every
later version must serve, list, show and verify it (test_stored.py), so released folders never
change: a new schema version gets a new folder.
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
    """Import the example and copy the artifact and its lock."""
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
