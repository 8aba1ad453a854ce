"""Imports models for benchmarks, by the command line, into a separate store."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.benchmarks.seeded import CLASSES, SPEC
from tools.benchmarks.session import BenchmarkError
from tools.serving import ROOT


def seeded_sources(architecture: str, weights: Path, folder: Path) -> dict[str, object]:
    """Write spec and labels of a network with seeded weights; return the import options."""
    spec, labels = folder / "preprocessing.json", folder / "labels.txt"
    spec.write_text(json.dumps(SPEC))
    labels.write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    return {
        "--network": f"torchvision:{architecture}",
        "--weights": weights,
        "--labels": labels,
        "--preprocessing": spec,
    }


def import_model(store: Path, lock: Path, options: Mapping[str, object]) -> Path:
    """Run `model_import.py` with a BENTOML_HOME; write the lock, return the artifact's directory.

    Raises:
        BenchmarkError: It failed; the message has its last line.
    """
    store.mkdir(parents=True, exist_ok=True)
    words = [str(word) for pair in {**options, "--lock": lock}.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "model_import.py", "--quiet", *words],
        cwd=ROOT,
        env={**os.environ, "BENTOML_HOME": str(store)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BenchmarkError(f"model_import.py: {last}")
    name, _, version = json.loads(lock.read_text())["tag"].partition(":")
    return store / "models" / str(name) / str(version)
