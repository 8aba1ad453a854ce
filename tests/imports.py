"""Imports of the digits example into isolated stores."""

import fcntl
import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    from image_classifier.artifact.artifact import Artifact
    from importer.options import ImportOptions
    from importer.pipeline import Imported
    from importer.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits"
SAMPLES = DIGITS / "samples"
STORED = ROOT / "tests" / "artifact" / "stored"
"""An artifact of each schema version, and its lock; released ones never change."""
PATIENCE_S = 600
"""Longest wait for another process; a shared machine may be thirty times slower than a free one."""


@contextmanager
def isolated_store(home: Path) -> Iterator[Path]:
    """Let BentoML use the model store below `home`, as a new process would with BENTOML_HOME."""
    with warnings.catch_warnings():
        # BentoML 1.4.40 uses a deprecated name of pathspec 1 while it is imported.
        warnings.simplefilter("ignore")
        for module in ("bentoml.models", "bentoml._internal.bento"):
            importlib.import_module(module)
        from bentoml._internal.configuration.containers import BentoMLContainer
        from bentoml._internal.models.model import ModelStore

    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    BentoMLContainer.model_store_dir.set(str(models))
    BentoMLContainer.model_store.set(ModelStore(str(models)))
    try:
        yield home
    finally:
        BentoMLContainer.model_store_dir.reset()
        BentoMLContainer.model_store.reset()


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """Return a directory that one of the parallel test processes fills for all of them.

    This is how pytest-xdist's documentation makes a fixture run once.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


def digits_options(**changes: object) -> "ImportOptions":
    """Return options to import the digits example, with a brief measurement."""
    from importer.options import ImportOptions

    defaults: dict[str, object] = {
        "name": "digits",
        "network": f"{DIGITS}/network.py:build",
        "weights": str(DIGITS / "weights.safetensors"),
        "preprocessing": f"{DIGITS}/preprocessing.py:DigitsPreprocessing",
        "labels": str(DIGITS / "labels.txt"),
        "golden": SAMPLES,
        "golden_labels": DIGITS / "labels.csv",
        "measure_seconds": 0.002,
    }
    return ImportOptions.model_validate({**defaults, **changes})


def spec_file(folder: Path, spec: dict[str, object]) -> str:
    """Write a preprocessing spec as YAML, which includes JSON; return its path."""
    (folder / "spec.yaml").write_text(json.dumps(spec))
    return str(folder / "spec.yaml")


def command_line(options: "ImportOptions") -> list[str]:
    """Return the command line for options without lists."""
    from importer.options import option_of

    values = options.model_dump(mode="json", exclude_defaults=True)
    return [str(part) for name, value in values.items() for part in (option_of(name), value)]


def import_quietly(
    options: "ImportOptions", lock: Path, progress: "Progress | None" = None
) -> "Imported":
    """Import in this process, as `model_import.py --quiet` does."""
    from importer.pipeline import import_model
    from importer.progress import Progress

    return import_model(options, lock, "a test", progress or Progress(quiet=True))


def engine_logits(
    artifact: "Artifact", inputs: npt.NDArray[Any], batch_size: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the logits of inputs (n, H, W, C) by engine, computed `batch_size` at a time."""
    from image_classifier.artifact.record import Plan
    from image_classifier.inference.engines.load import open_graph

    found = {}
    for entry in artifact.evidence.engines:
        sizes, shape = (batch_size,), artifact.manifest.input.shape
        plan = Plan(engine=entry.name, streams=1, threads=1, batch_sizes=sizes, service_time_ms=1)
        engine = open_graph(entry, artifact.root, shape)(plan)
        parts = [
            engine.run(inputs[at : at + batch_size]) for at in range(0, len(inputs), batch_size)
        ]
        found[entry.name] = np.concatenate(parts)
    return found
