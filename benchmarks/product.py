"""Imports a workload's network as the project's user would; everyone then runs that engine."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.running import ROOT
from benchmarks.workload import DIGITS, Workload
from preprocessing.errors import OperatorError

EXAMPLE = ROOT / "examples" / "digits"
IMPORT_WITHIN_S = 900
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class ImportRefused(OperatorError):
    """The project's importer did not take the network; its own line says why."""


def imported(workload: Workload, precision: str, mix: str, folder: Path) -> Workload:
    """Run `model_import.py` and name the engine of the artifact in the workload.

    The artifact goes to a model store below the build folder, not to the user's.

    Args:
        workload: Has weights and image mixes.
        precision: The one engine to make.
        mix: Golden and calibration images.
        folder: For the spec, the labels and the lock.

    Raises:
        ImportRefused: The importer ended with an error.
    """
    lock = folder / f"{precision}.lock"
    images = str(Path(workload.mixes[mix][0]).parent)
    sources = _digits() if workload.architecture == DIGITS else _torchvision(workload, folder)
    command = [
        *(sys.executable, str(ROOT / "model_import.py"), "--quiet"),
        *("--name", f"benchmark-{workload.model}".replace("_", "-")),
        *sources,
        *("--golden", images, "--calibration", images),
        *("--engine", "openvino", "--precision", precision, "--lock", str(lock)),
        # 48 images: one that lies between two classes is 2 %.
        *("--gate-agreement", "0.9"),
    ]
    store = Path(workload.store)
    store.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"BENTOML_HOME": str(store)},
        capture_output=True,
        text=True,
        timeout=IMPORT_WITHIN_S,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ImportRefused(f"model_import.py, {workload.model}: {last}")
    return dataclasses.replace(
        workload,
        lock=str(lock),
        engine=str(_engine_file(lock, store, precision)),
        precision_hint=HINTS[precision],
    )


def _digits() -> list[str]:
    return [
        *("--network", f"{EXAMPLE / 'network.py'}:build"),
        *("--weights", str(EXAMPLE / "weights.safetensors")),
        *("--preprocessing", f"{EXAMPLE / 'preprocessing.py'}:DigitsPreprocessing"),
        *("--labels", str(EXAMPLE / "labels.txt")),
    ]


def _torchvision(workload: Workload, folder: Path) -> list[str]:
    spec = folder / "preprocessing.json"
    resize, crop = workload.resize_size, workload.crop_size
    spec.write_text(
        json.dumps(
            {
                "resize": {"size": resize},
                "crop": crop,
                "mean": workload.mean,
                "std": workload.std,
            }
        )
    )
    labels = folder / "labels.txt"
    labels.write_text("".join(f"class {index}\n" for index in range(workload.classes)))
    return [
        *("--network", f"torchvision:{workload.architecture}"),
        *("--weights", workload.weights, "--preprocessing", str(spec), "--labels", str(labels)),
    ]


def _engine_file(lock: Path, store: Path, precision: str) -> Path:
    """The graph of the locked artifact, as its manifest names it."""
    name, _, version = json.loads(lock.read_text())["tag"].partition(":")
    artifact: Path = store / "models" / name / version
    for engine in json.loads((artifact / "manifest.json").read_text())["engines"]:
        if (engine["kind"], engine["precision"]) == ("openvino", precision):
            file: str = engine["file"]
            return artifact / file
    raise ImportRefused(f"{artifact.name}: the manifest has no engine openvino-{precision}")
