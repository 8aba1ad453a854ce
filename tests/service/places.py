"""Directories for test servers: a copy of the checkout and a store with the digits model."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.imports import ROOT, command_line, digits_options
from tests.programs import run_program


@dataclass(frozen=True, kw_only=True)
class Place:
    """A directory with service.py, and a BENTOML_HOME."""

    directory: Path
    home: Path

    @property
    def lock(self) -> Path:
        return self.directory / "model.lock"

    @property
    def tag(self) -> str:
        return str(json.loads(self.lock.read_bytes())["tag"])

    @property
    def artifact(self) -> Path:
        """The directory of the locked artifact."""
        return self.home / "models" / self.tag.replace(":", "/")

    def environment(self, **settings: object) -> dict[str, str]:
        """Return the environment of a process; `settings` become CLASSIFIER_<NAME>."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CLASSIFIER_", "BENTOML_", "PROMETHEUS_"))
        }
        return {
            **kept,
            "BENTOML_HOME": str(self.home),
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONDONTWRITEBYTECODE": "1",
            **{f"CLASSIFIER_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def run(self, *words: str, umask: int = 0o022, **settings: object) -> str:
        """Run Python in the directory, check its exit status and return its output."""
        environment = self.environment(**settings)
        done = run_program(sys.executable, *words, cwd=self.directory, env=environment, umask=umask)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def with_own_store(self, home: Path) -> "Place":
        """Return this directory with a copy of the store, which a test may change."""
        shutil.copytree(self.home / "models", home / "models")
        return Place(directory=self.directory, home=home)


NewPlace = Callable[[], Place]


def copy_checkout(target: Path) -> None:
    """Copy the checkout, so that edits during a test have no effect."""
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "logs", "model.lock")
    shutil.copytree(ROOT, target, ignore=unwanted)


def import_digits(place: Place) -> None:
    """Import the digits model by command line, with a brief measurement."""
    place.run("model_import.py", "--quiet", *command_line(digits_options()))
