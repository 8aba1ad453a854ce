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

WITHIN_S = 1800


def output_of(command: list[str], variables: Mapping[str, str] | None = None) -> str:
    """Run a command in this checkout, with more environment variables; return its output.

    Raises:
        BenchmarkError: It failed or took too long; the message has its last line.
    """
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{command[1]}: not finished after {WITHIN_S} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BenchmarkError(f"{' '.join(command[1:3])}: {last}")
    return done.stdout


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
        BenchmarkError: As `output_of`.
    """
    store.mkdir(parents=True, exist_ok=True)
    words = [str(word) for pair in {**options, "--lock": lock}.items() for word in pair]
    command = [sys.executable, "model_import.py", "--quiet", *words]
    output_of(command, {"BENTOML_HOME": str(store)})
    name, _, version = json.loads(lock.read_text())["tag"].partition(":")
    return store / "models" / str(name) / str(version)
