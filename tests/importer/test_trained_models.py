"""Trained weights give the published numbers with their preprocessing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from image_classifier.artifact.store import open_in_store
from importer.errors import ImportRefused
from importer.options import ImportOptions
from preprocessing import DecodeLimits, to_input
from tests.imports import (
    command_line,
    digits_options,
    engine_logits,
    import_quietly,
    spec_file,
)
from tests.service.places import Place, copy_checkout
from tests.service.server import Server
from tests.shared_data import SHARED, needs_shared_data

pytestmark = [needs_shared_data, pytest.mark.slow]
PHOTOS = SHARED / "images" / "nips17_dev"
SQUEEZENET = "squeezenet1_1_imagenet"
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
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    SQUEEZENET: (
        "torchvision:squeezenet1_1",
        "squeezenet1_1_imagenet.pth",
        {"resize": {"size": 256}, "crop": 224, **IMAGENET},
    ),
    "mobilenet_v2_tfqat_imagenet": (
        "torchvision:mobilenet_v2",
        "mobilenet_v2_tfqat_imagenet.safetensors",
        {"resize": {"size": 256}, "crop": 225, **HALF},
    ),
    "mnist_cnn_tiny": (
        "tiny_cnn.py:build",
        "mnist_cnn_tiny.pth",
        {"decode": {"mode": "L"}, "resize": {"size": 28}, "crop": 28},
    ),
}
"""Model → network, weights and preprocessing, from the README of the data."""
LOGIT_TOLERANCES = dict.fromkeys(MODELS, 5e-05) | {"mnist_cnn_tiny": 2e-3}
"""Of float32 engines, from that README."""
PROBABILITY_TOLERANCE = 1e-5


def golden_logits(model: str) -> dict[str, npt.NDArray[np.float32]]:
    """Reference logits by file name."""
    with np.load(SHARED / "golden" / f"{model}.nips17_dev.npz", allow_pickle=False) as stored:
        return dict(zip(stored["files"].tolist(), stored["logits"], strict=True))


def options_of(model: str, folder: Path, **changes: object) -> ImportOptions:
    """The right import of a model, with its reference; writes files into `folder`."""
    network, weights, spec = MODELS[model]
    labels, golden = SHARED / "weights" / "imagenet_categories.txt", PHOTOS
    if model == "mnist_cnn_tiny":
        (folder / "tiny_cnn.py").write_text(TINY_CNN)
        network = f"{folder}/{network}"
        labels, golden = folder / "labels.txt", folder / "images"
        labels.write_text("\n".join("0123456789"))
        golden.mkdir()
        for path in PHOTOS.glob("*.png"):  # without ImageNet's labels.csv
            (golden / path.name).symlink_to(path)
    values: dict[str, object] = {
        "name": model.replace("_", "-"),
        "network": network,
        "weights": str(SHARED / "weights" / weights),
        "preprocessing": spec_file(folder, spec),
        "labels": str(labels),
        "golden": golden,
        "golden_labels": None,
        "golden_count": 16,
        "reference": SHARED / "golden" / f"{model}.nips17_dev.npz",
    }
    return digits_options(**{**values, **changes})


@pytest.mark.parametrize(
    "model",
    [
        "mnist_cnn_tiny",
        # SqueezeNet's published numbers are compared through the service, below.
        pytest.param("mobilenet_v2_tfqat_imagenet", marks=pytest.mark.all),
    ],
)
def test_every_fp32_engine_reproduces_the_published_logits(
    store: Path, tmp_path: Path, model: str
) -> None:
    imported = import_quietly(options_of(model, tmp_path), tmp_path / "model.lock")

    expected = golden_logits(model)
    artifact = open_in_store(imported.lock.tag)
    preprocessing = artifact.preprocessing
    inputs = [
        to_input((PHOTOS / name).read_bytes(), preprocessing, DecodeLimits()) for name in expected
    ]
    found = engine_logits(artifact, np.stack(inputs), 1)
    assert found.keys() == {"openvino-fp32", "onnxruntime-fp32"}
    for engine, logits in found.items():
        difference = np.abs(logits - np.stack(list(expected.values()))).max()
        assert difference <= LOGIT_TOLERANCES[model], engine


@pytest.mark.all
@pytest.mark.parametrize("model", [SQUEEZENET, "mobilenet_v2_tfqat_imagenet"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_reduced_precision_passes_the_gates_or_is_refused_with_the_numbers(
    store: Path, tmp_path: Path, model: str, precision: str
) -> None:
    options = options_of(model, tmp_path, golden_count=100, precision=precision)

    try:
        imported = import_quietly(options, tmp_path / "model.lock")
    except ImportRefused as refusal:
        text = str(refusal)
        assert f"openvino-{precision}: " in text
        assert "required is 99.0%" in text or "allowed is 0.50%" in text or "no bf16" in text
        assert not (tmp_path / "model.lock").exists()
        assert not list(store.glob("models/*"))
    else:
        (entry,) = imported.evidence.engines
        proof = entry.certificate
        assert entry.name == f"openvino-{precision}"
        assert proof.samples == 100
        assert proof.agreement >= 0.99
        assert proof.accuracy is not None
        assert proof.reference_accuracy is not None
        assert proof.accuracy >= proof.reference_accuracy - 0.005 - 1e-9


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A copy of the checkout with SqueezeNet imported under a lock of another name."""
    place = Place(directory=tmp_path / "checkout", home=tmp_path / "home")
    copy_checkout(place.directory)
    options = options_of(
        SQUEEZENET, tmp_path, golden_count=8, lock=place.directory / "squeezenet.lock"
    )
    place.run("model_import.py", "--quiet", *command_line(options))
    return place


def test_a_hundred_photos_get_the_published_probabilities(place: Place) -> None:
    published = json.loads((SHARED / "golden" / f"{SQUEEZENET}.nips17_dev.json").read_bytes())
    names = (SHARED / "weights" / "imagenet_categories.txt").read_text().splitlines()

    with Server(place, lock="squeezenet.lock", max_wait_ms=50_000, timeout_ms=50_000) as server:
        for name, expected in published["images"].items():
            data = (PHOTOS / name).read_bytes()
            answer = server.client.post("/classify?top_k=5", content=data)
            found = answer.json()["predictions"]

            assert [item["probability"] for item in found] == pytest.approx(
                expected["top_probs"][:5], abs=PROBABILITY_TOLERANCE
            )
            # The order is certain if the margin is larger than the tolerance.
            if expected["margin_top1_top2"] > 1e-4:
                assert found[0]["class_id"] == expected["top_ids"][0]
                assert found[0]["label"] == names[expected["top_ids"][0]]
    assert server.process.returncode == 0, server.log
