"""Trained models of the shared test data, as its README says to import them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from importer.options import ImportOptions
from tests.imports import digits_options
from tests.shared_data import SHARED

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
TINY_CNN = """from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3),
        nn.Flatten(), nn.Linear(256, 10),
    )
"""
SPECS: dict[str, dict[str, Any]] = {
    "squeezenet1_1_imagenet": {"resize": {"size": 256}, "crop": 224, **IMAGENET},
    "mobilenet_v2_tfqat_imagenet": {"resize": {"size": 256}, "crop": 225, **HALF},
    "mnist_cnn_tiny": {"decode": {"mode": "L"}, "resize": {"size": 28}, "crop": 28},
}
WEIGHTS = {
    "squeezenet1_1_imagenet": "squeezenet1_1_imagenet.pth",
    "mobilenet_v2_tfqat_imagenet": "mobilenet_v2_tfqat_imagenet.safetensors",
    "mnist_cnn_tiny": "mnist_cnn_tiny.pth",
}
NETWORKS = {
    "squeezenet1_1_imagenet": "torchvision:squeezenet1_1",
    "mobilenet_v2_tfqat_imagenet": "torchvision:mobilenet_v2",
}
LOGIT_TOLERANCES = dict.fromkeys(SPECS, 5e-05) | {"mnist_cnn_tiny": 2e-3}
"""Of any float32 path, from the README of the data."""
PROBABILITY_TOLERANCE = 1e-5


def golden_logits(model: str) -> dict[str, npt.NDArray[np.float32]]:
    """Reference logits by file name."""
    with np.load(SHARED / "golden" / f"{model}.nips17_dev.npz", allow_pickle=False) as stored:
        return dict(zip(stored["files"].tolist(), stored["logits"], strict=True))


def spec_file(folder: Path, spec: dict[str, Any]) -> str:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return str(path)


def options_of(model: str, folder: Path, **changes: object) -> ImportOptions:
    """The right import of a model, held to its goldens; `folder` takes the files it needs."""
    network = NETWORKS.get(model)
    if network is None:
        (folder / "tiny_cnn.py").write_text(TINY_CNN)
        network = f"{folder}/tiny_cnn.py:build"
    labels = SHARED / "weights" / "imagenet_categories.txt"
    if "imagenet" not in model:
        labels = folder / "labels.txt"
        labels.write_text("\n".join(map(str, range(10))))
    given: dict[str, object] = {
        "name": model.replace("_", "-"),
        "network": network,
        "weights": str(SHARED / "weights" / WEIGHTS[model]),
        "preprocessing": spec_file(folder, SPECS[model]),
        "labels": labels,
        "golden": _without_foreign_classes(model, folder),
        "golden_labels": None,
        "golden_count": 16,
        "reference": SHARED / "golden" / f"{model}.nips17_dev.npz",
    }
    return digits_options(**{**given, **changes})


def _without_foreign_classes(model: str, folder: Path) -> Path:
    """The folder of images; for models of other classes, one without ImageNet's labels.csv."""
    source = SHARED / "images" / "nips17_dev"
    if "imagenet" in model:
        return source
    target = folder / "images"
    target.mkdir()
    for path in source.glob("*.png"):
        (target / path.name).symlink_to(path)
    return target
