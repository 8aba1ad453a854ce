"""The package imports what it may and nothing else."""

import subprocess
import sys
from pathlib import Path

import preprocessing

PROGRAM = "import preprocessing, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def test_torch_is_never_loaded():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = set(ran.stdout.split())

    assert loaded.isdisjoint({"torch", "torchvision", "bentoml", "image_classifier", "service"})


def test_everything_exported_exists_and_the_list_is_sorted():
    assert preprocessing.__all__ == sorted(preprocessing.__all__)
    assert all(hasattr(preprocessing, name) for name in preprocessing.__all__)
