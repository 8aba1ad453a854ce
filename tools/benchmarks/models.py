"""Prepares a workload: seeded weights, the project's own import, the right answer of each image.

`python -m tools.benchmarks.models MODEL MIX` runs in a process of its own, so that torch is not in
the one that measures, and prints the path of the workload file.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tools.benchmarks.images import DIGITS_MIX, mix_files
from tools.benchmarks.peers.common import Classifier
from tools.benchmarks.seeded import CLASSES, SPEC, near_best, save_seeded_weights
from tools.benchmarks.session import BenchmarkError
from tools.benchmarks.workload import InputMaker, Workload, read_workload, write_workload
from tools.serving import ROOT

BUILD = ROOT / "build" / "benchmarks"
WITHIN_S = 1800
EXAMPLE = "examples/digits"

NEAR_TIE = {"fp32": 1e-4, "bf16": 0.02, "int8": 0.02}
"""Classes within this part of the spread of an image's logits are all right: the order of
floating-point sums depends on batch size and streams."""


def prepared(model: str, mix: str) -> Path:
    """Make what is missing of a workload in another process; return the path of its file.

    Raises:
        BenchmarkError: It cannot be made; the message has the last line of that process.
    """
    output = _output([sys.executable, "-m", "tools.benchmarks.models", model, mix], {})
    return Path(output.strip().splitlines()[-1])


def make_workload(model: str, mix: str) -> Path:
    """Make the workload of a model and a mix, unless it was made from the same sources.

    Args:
        model: A function of `torchvision.models`, or "digits", and a precision, joined by "-".
    """
    path = BUILD / "workloads" / f"{model}-{mix}.json"
    made_from = sources_digest()
    try:
        if read_workload(path).made_from == made_from:
            return path
    except (FileNotFoundError, TypeError, KeyError):
        pass  # absent, or written by another version
    path.parent.mkdir(parents=True, exist_ok=True)
    architecture, _, precision = model.rpartition("-")
    folder = BUILD / "models" / architecture
    folder.mkdir(parents=True, exist_ok=True)
    workload = Workload(
        model=model,
        engine="",
        precision_hint="bf16" if precision == "bf16" else "f32",
        preprocessing=str(folder / "preprocessing.json"),
        threads=len(os.sched_getaffinity(0)),
        store=str(BUILD / "bentoml"),
        lock=str(path.with_suffix(".lock")),
        files=mix_files(mix, BUILD / "images"),
        made_from=made_from,
    )
    if mix == DIGITS_MIX:
        preprocessing = f"{EXAMPLE}/preprocessing.py:DigitsPreprocessing"
        workload = dataclasses.replace(workload, preprocessing=preprocessing)
        sources = {
            "--network": f"{EXAMPLE}/network.py:build",
            "--weights": f"{EXAMPLE}/weights.safetensors",
            "--labels": f"{EXAMPLE}/labels.txt",
        }
    else:
        (folder / "preprocessing.json").write_text(json.dumps(SPEC))
        (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
        weights = folder / f"{mix}.safetensors"
        if not weights.exists():
            to_input = InputMaker(workload.preprocessing)
            pixels = np.stack([to_input(data) for data in workload.images()])
            save_seeded_weights(architecture, pixels, weights)
        sources = {
            "--network": f"torchvision:{architecture}",
            "--weights": str(weights),
            "--labels": str(folder / "labels.txt"),
        }
    engine = _import(workload, precision, {**sources, "--preprocessing": workload.preprocessing})
    workload = dataclasses.replace(workload, engine=str(engine))
    accepted = tuple(_accepted(workload, NEAR_TIE[precision]))
    write_workload(dataclasses.replace(workload, accepted=accepted), path)
    return path


def sources_digest() -> str:
    """Return a digest of the code that weights and import depend on."""
    digest = hashlib.sha256()
    folders = ("image_classifier", "importer", "preprocessing")
    sources = [file for name in folders for file in sorted((ROOT / name).rglob("*.py"))]
    seeded = Path(__file__).with_name("seeded.py")
    for source in (*sources, ROOT / "model_import.py", Path(__file__), seeded):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _import(workload: Workload, precision: str, sources: dict[str, str]) -> Path:
    """Run `model_import.py` into a store of the benchmark's own; return the engine's graph."""
    Path(workload.store).mkdir(parents=True, exist_ok=True)
    images = str(Path(workload.files[0]).parent)
    options = {
        **sources,
        "--name": f"benchmark-{workload.model}".replace("_", "-"),
        "--golden": images,
        "--calibration": images,
        "--engine": "openvino",
        "--precision": precision,
        "--lock": workload.lock,
        "--gate-agreement": "0.9",  # of 48 images, one between two classes is 2 %
    }
    pairs = [it for pair in options.items() for it in pair]
    command = [sys.executable, "model_import.py", "--quiet", *pairs]
    _output(command, {"BENTOML_HOME": workload.store})
    name, _, version = json.loads(Path(workload.lock).read_text())["tag"].partition(":")
    artifact: Path = Path(workload.store) / "models" / name / version
    for engine in json.loads((artifact / "evidence.json").read_text())["engines"]:
        if (engine["kind"], engine["precision"]) == ("openvino", precision):
            return artifact / str(engine["file"])
    raise BenchmarkError(f"{artifact.name}: no certified engine openvino-{precision}")


def _output(command: list[str], variables: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | variables,
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


def _accepted(workload: Workload, near_tie: float) -> list[tuple[int, ...]]:
    """Return the right classes of each image: the engine's own in-process answer, batch 1."""
    classifier = Classifier(workload)
    return [
        near_best(classifier.forward(classifier.to_input(data)[None])[0], near_tie)
        for data in workload.images()
    ]


if __name__ == "__main__":
    try:
        print(make_workload(sys.argv[1], sys.argv[2]))
    except BenchmarkError as error:
        sys.exit(str(error))
