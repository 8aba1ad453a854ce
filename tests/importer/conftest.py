"""The digits artifact as an archive, and an empty store to read it into."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from image_classifier.artifact.artifact import open_artifact
from importer.archive import pack
from tests.imports import isolated_store


@pytest.fixture
def archive(digits_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "digits.zip"
    pack(open_artifact(digits_folder), path)
    return path


@pytest.fixture
def empty_store(tmp_path: Path) -> Iterator[Path]:
    with isolated_store(tmp_path / "elsewhere") as home:
        yield home
