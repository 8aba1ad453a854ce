"""Prepares a workload: seeded weights, an import, the right answer for each image."""

import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from tools.benchmarks.images import DIGITS_MIX, mix_files
from tools.benchmarks.importing import import_model, seeded_sources
from tools.benchmarks.peers.common import Classifier
from tools.benchmarks.seeded import NEAR_TIE, near_best, save_seeded_weights
from tools.benchmarks.servers import BUILD
from tools.benchmarks.session import BenchmarkError
from tools.benchmarks.workload import Workload, read_workload
from tools.serving import ROOT

EXAMPLE = "examples/digits"


def prepared(model: str, mix: str) -> Path:
    """Call `make_workload` in another process, so that this one does not load torch."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(make_workload, model, mix).result()


def make_workload(model: str, mix: str) -> Path:
    """Prepare a workload, unless it exists and is up to date; return the path of its file.

    Args:
        model: A function of `torchvision.models`, or "digits", and a precision, joined by "-".

    Raises:
        BenchmarkError: The import failed.
    """
    path = BUILD / "workloads" / f"{model}-{mix}.json"
    made_from = sources_digest()
    try:
        if read_workload(path).made_from == made_from:
            return path
    except (FileNotFoundError, ValidationError):
        pass  # missing, or from another version
    path.parent.mkdir(parents=True, exist_ok=True)
    architecture, _, precision = model.rpartition("-")
    folder = BUILD / "models" / architecture
    folder.mkdir(parents=True, exist_ok=True)
    spec = str(folder / "preprocessing.json")
    own_class = f"{EXAMPLE}/preprocessing.py:DigitsPreprocessing"
    workload = Workload(
        model=model,
        engine="",
        precision_hint="bf16" if precision == "bf16" else "f32",
        preprocessing=own_class if mix == DIGITS_MIX else spec,
        threads=len(os.sched_getaffinity(0)),
        store=str(BUILD / "bentoml"),
        lock=str(path.with_suffix(".lock")),
        files=mix_files(mix, BUILD / "images"),
        made_from=made_from,
    )
    if mix == DIGITS_MIX:
        sources: dict[str, object] = {
            "--network": f"{EXAMPLE}/network.py:build",
            "--weights": f"{EXAMPLE}/weights.safetensors",
            "--labels": f"{EXAMPLE}/labels.txt",
            "--preprocessing": own_class,
        }
    else:
        weights = folder / f"{mix}.safetensors"
        sources = seeded_sources(architecture, weights, folder)
        if not weights.exists():
            to_input = workload.input_maker()
            pixels = np.stack([to_input(data) for data in workload.images()])
            save_seeded_weights(architecture, pixels, weights)
    engine = _import(workload, precision, sources)
    workload = workload.model_copy(update={"engine": str(engine)})
    # The engine's own in-process answers, at batch size 1, are the right ones.
    classifier = Classifier(workload)
    logits = [classifier.forward(classifier.to_input(data)[None])[0] for data in workload.images()]
    accepted = tuple(near_best(row, NEAR_TIE[precision]) for row in logits)
    workload = workload.model_copy(update={"accepted": accepted})
    path.write_text(workload.model_dump_json(indent=1) + "\n")
    return path


def sources_digest() -> str:
    """Return a digest of the code that determines weights and import."""
    digest = hashlib.sha256()
    folders = ("image_classifier", "importer", "preprocessing")
    sources = [file for name in folders for file in sorted((ROOT / name).rglob("*.py"))]
    own = [Path(__file__).with_name(name) for name in ("models.py", "seeded.py", "importing.py")]
    for source in (*sources, ROOT / "model_import.py", *own):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _import(workload: Workload, precision: str, sources: dict[str, object]) -> Path:
    """Import the model of a workload; return the engine's graph."""
    images = Path(workload.files[0]).parent
    options = {
        **sources,
        "--name": f"benchmark-{workload.model}".replace("_", "-"),
        "--golden": images,
        "--calibration": images,
        "--engine": "openvino",
        "--precision": precision,
        "--gate-agreement": 0.9,  # of 48 images, one between two classes is 2 %
    }
    artifact = import_model(Path(workload.store), Path(workload.lock), options)
    for engine in json.loads((artifact / "evidence.json").read_text())["engines"]:
        if (engine["kind"], engine["precision"]) == ("openvino", precision):
            return artifact / str(engine["file"])
    raise BenchmarkError(f"{artifact.name}: no certified engine openvino-{precision}")
