"""Writes the files of an artifact into its staging directory."""

import contextlib
import importlib.metadata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.format import (
    REFERENCE_LOGITS_NAME,
    FrozenModel,
    sha256_bytes,
    sha256_file,
)
from image_classifier.artifact.manifest import GoldenEntry, Graph
from image_classifier.inference.engine import Logits
from importer.golden_images import GoldenImage

PACKAGES = ("nncf", "numpy", "onnx", "onnxruntime", "openvino", "pillow", "torch", "torchvision")
"""Libraries whose version may change the model's numbers."""


def installed_versions() -> dict[str, str]:
    """Return the installed versions of `PACKAGES`."""
    installed = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def keep_graphs(
    root: Path, graphs: Iterable[Graph], packages: Collection[str]
) -> tuple[Graph, ...]:
    """Return the graphs that were exported, and remove files of neither graphs nor packages."""
    kept = []
    for graph in graphs:
        if (root / graph.file).is_file():
            data = f"{graph.file}.data"  # large tensors of an ONNX graph
            companions = (*graph.companions, *((data,) if (root / data).is_file() else ()))
            kept.append(graph.model_copy(update={"companions": companions}))
    used = {file for graph in kept for file in (graph.file, *graph.companions)} | {*packages}
    for path in (root / "engines").iterdir():
        if path.relative_to(root).as_posix() not in used:
            path.unlink()
    return tuple(kept)


def write_golden(
    root: Path,
    images: Sequence[GoldenImage],
    class_ids: Sequence[int | None],
    inputs: npt.NDArray[np.generic],
) -> tuple[GoldenEntry, ...]:
    """Write the golden files, and return their entries in the manifest.

    Args:
        class_ids: True class of each image; None if unknown.
        inputs: The preprocessed images, (n, H, W, C).
    """
    entries = []
    (root / "golden").mkdir(exist_ok=True)
    for number, image in enumerate(images):
        # Numbered, because the original names may clash or hold unusual characters.
        file = f"golden/{number:04}{PurePosixPath(image.name).suffix.lower()}"
        (root / file).write_bytes(image.data)
        entries.append(
            GoldenEntry(
                file=file,
                name=image.name,
                class_id=class_ids[number],
                input_sha256=sha256_bytes(inputs[number].tobytes()),
            )
        )
    return tuple(entries)


def write_description(path: Path, value: FrozenModel) -> str:
    """Write the manifest or the evidence; return the sha256 of the file."""
    data = value.to_json()
    path.write_bytes(data)
    return sha256_bytes(data)


def write_reference(root: Path, logits: Logits) -> str:
    """Write the reference logits, float32 (n, classes); return the sha256 of their file."""
    path = root / REFERENCE_LOGITS_NAME
    np.save(path, logits, allow_pickle=False)
    return sha256_file(path)
