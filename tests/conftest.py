"""What all tests share: a model store of their own, and the digits example imported into it."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.imports import digits_options, import_quietly, isolated_store

# Before anything imports BentoML: no test may see or change the store of the person running it.
os.environ["BENTOML_HOME"] = tempfile.mkdtemp(prefix="image-classifier-tests-")
atexit.register(shutil.rmtree, os.environ["BENTOML_HOME"], ignore_errors=True)
os.environ["BENTOML_DO_NOT_TRACK"] = "true"

# The same examples everywhere, however slow the machine.
settings.register_profile(
    "same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imported digits artifact: read it, never change it."""
    home = tmp_path_factory.mktemp("digits")
    with isolated_store(home / "bentoml"):
        imported = import_quietly(digits_options(), home / "model.lock")
    return home / "bentoml" / "models" / imported.lock.tag.replace(":", "/")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """An empty model store, for one test; the path is its BENTOML_HOME."""
    with isolated_store(tmp_path / "bentoml") as home:
        yield home
