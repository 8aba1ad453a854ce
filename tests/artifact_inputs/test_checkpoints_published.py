"""Published checkpoints: the digest in the name, and the real weights with their golden logits."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import Architecture
from importer.network import build_network
from importer.weights import check_published_digest, load_strictly, read_state_dict
from tests.shared_data import SHARED, needs_shared_data


def saved(path: Path) -> Path:
    torch.save({"weight": torch.ones(2, 3)}, path)
    return path


@pytest.mark.parametrize("digits", [8, 9, 16, 64])
def test_a_digest_in_the_name_is_compared_with_the_content(tmp_path: Path, digits: int) -> None:
    path = saved(tmp_path / "net.pth")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    good = path.rename(tmp_path / f"net-{actual[:digits]}.pth")
    assert list(read_state_dict(good).tensors) == ["weight"]

    wrong = actual[: digits - 1] + ("a" if actual[digits - 1] != "a" else "b")
    bad = good.rename(tmp_path / f"net-{wrong}.pth")

    with pytest.raises(ArtifactError, match=f"starts with {wrong}, it is {actual[:16]}"):
        read_state_dict(bad)


@pytest.mark.parametrize(
    "name", ["net-20240131.pth", "net-final.pth", "net-abc.pth", "abcdef12.pth", "net-ABCDEF12.pth"]
)
def test_other_endings_of_names_are_no_digest(tmp_path: Path, name: str) -> None:
    assert list(read_state_dict(saved(tmp_path / name)).tensors) == ["weight"]


@needs_shared_data
def test_a_damaged_published_checkpoint_is_refused_by_its_name(tmp_path: Path) -> None:
    original = SHARED / "weights" / "resnet20-12fca82f.th"
    check_published_digest(original)
    data = bytearray(original.read_bytes())
    data[-1] ^= 1
    (tmp_path / original.name).write_bytes(data)

    with pytest.raises(ArtifactError, match="12fca82f, it is "):
        read_state_dict(tmp_path / original.name)


@needs_shared_data
def test_the_legacy_cuda_checkpoint_reproduces_its_golden_logits() -> None:
    architecture = Architecture.parse("cifar_resnet.py:build", {})
    network = build_network(architecture, Path(__file__).parent)
    load_strictly(network, read_state_dict(SHARED / "weights" / "resnet20-12fca82f.th"))
    transform = ImageClassification(crop_size=32, resize_size=32)

    assert_golden(network, transform, "resnet20_cifar10")


@needs_shared_data
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_weights_reproduce_their_golden_logits(suffix: str) -> None:
    network = build_network(Architecture.parse("torchvision:squeezenet1_1", {}), None)
    path = SHARED / "weights" / f"squeezenet1_1_imagenet.{suffix}"
    load_strictly(network, read_state_dict(path))

    assert_golden(network, ImageClassification(crop_size=224), "squeezenet1_1_imagenet")


def assert_golden(network: torch.nn.Module, transform: Callable[..., Any], model: str) -> None:
    golden = np.load(SHARED / "golden" / f"{model}.nips17_dev.npz", allow_pickle=False)
    for name, expected in list(zip(golden["files"], golden["logits"], strict=True))[:3]:
        image = Image.open(SHARED / "images" / "nips17_dev" / str(name)).convert("RGB")
        with torch.inference_mode():
            logits = network(transform(image)[None])[0].numpy()
        # The tolerance for eager float32 that the README of the data states.
        assert np.abs(logits - expected).max() <= 2e-5


@needs_shared_data
def test_both_formats_of_one_model_hold_the_same_tensors() -> None:
    first = read_state_dict(SHARED / "weights" / "mnist_cnn_tiny.pth").tensors
    second = read_state_dict(SHARED / "weights" / "mnist_cnn_tiny.safetensors").tensors

    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_shared_data
def test_the_name_of_a_file_says_nothing_about_its_kind(tmp_path: Path) -> None:
    source = SHARED / "weights" / "mnist_cnn_tiny.safetensors"
    shutil.copy(source, tmp_path / "weights.pth")

    assert len(read_state_dict(tmp_path / "weights.pth").tensors) == 6
