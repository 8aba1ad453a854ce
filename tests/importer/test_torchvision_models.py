"""Published torchvision weights: what belongs to them, and how the file is found and checked."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision.models
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from importer.errors import ImportRefused as ArtifactError
from image_classifier.artifact.manifest import Architecture
from importer.network import build_network
from importer.torchvision_models import (
    TorchvisionWeights,
    known_torchvision_names,
    read_torchvision_weights,
    torchvision_meta,
    torchvision_weights_of,
)
from importer.weights import DIGEST_IN_NAME, load_strictly


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub; nothing outside it is read."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(folder: Path, *, scheme: str = "https://example.invalid") -> TorchvisionWeights:
    """A SqueezeNet with two classes, saved as torch.hub names files."""
    network = torchvision.models.squeezenet1_1(num_classes=2)
    torch.save(network.state_dict(), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    name = f"squeezenet1_1-{digest[:8]}.pth"
    (folder / "net.pth").rename(folder / name)
    meta = torchvision_meta("squeezenet1_1", "IMAGENET1K_V1")
    return replace(meta, url=f"{scheme}/{name}", builder_kwargs={"num_classes": 2})


def test_resnet50_v2_comes_with_its_own_transform_and_labels() -> None:
    meta = torchvision_meta("resnet50", "IMAGENET1K_V2")

    assert (meta.resize_size, meta.crop_size, meta.interpolation) == (232, 224, "bilinear")
    assert meta.antialias is True
    assert meta.mean == (0.485, 0.456, 0.406)
    assert meta.std == (0.229, 0.224, 0.225)
    assert len(meta.labels) == 1000
    assert meta.labels[:2] == ("tench", "goldfish")
    assert meta.builder_kwargs == {}
    assert meta.file_name == "resnet50-11ad3fa6.pth"
    assert torchvision_meta("resnet50", "DEFAULT") == meta


def test_the_transform_is_the_one_torchvision_applies() -> None:
    meta = torchvision_meta("efficientnet_b0", "IMAGENET1K_V1")
    ours = ImageClassification(
        crop_size=meta.crop_size,
        resize_size=meta.resize_size,
        mean=meta.mean,
        std=meta.std,
        interpolation=InterpolationMode(meta.interpolation),
        antialias=meta.antialias,
    )
    theirs = torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1.transforms()
    image = Image.linear_gradient("L").resize((300, 280)).convert("RGB")

    assert meta.interpolation == "bicubic"
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize(
    ("network", "weights", "kwargs"),
    [
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", {"image_size": 384}),
        ("vit_b_16", "IMAGENET1K_V1", {}),
        ("vit_h_14", "IMAGENET1K_SWAG_E2E_V1", {"image_size": 518}),
        ("inception_v3", "IMAGENET1K_V1", {"transform_input": True}),
        ("googlenet", "IMAGENET1K_V1", {"transform_input": True}),
    ],
)
def test_weights_that_need_other_builder_arguments_bring_them(
    network: str, weights: str, kwargs: dict[str, object]
) -> None:
    assert torchvision_meta(network, weights).builder_kwargs == kwargs


@pytest.mark.parametrize("network", ["vit_b_16", "inception_v3", "maxvit_t", "swin_v2_t"])
def test_the_builder_arguments_are_those_torchvision_derives(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchvision's own builder with weights, their download replaced by an empty state.
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
    for member in torchvision.models.get_model_weights(network):
        meta = torchvision_meta(network, member.name)
        architecture = Architecture.parse(f"torchvision:{network}", meta.builder_kwargs)

        ours, theirs = (
            build_network(architecture, None),
            torchvision.models.get_model(network, weights=member),
        )

        assert [tensor.shape for tensor in ours.state_dict().values()] == [
            tensor.shape for tensor in theirs.state_dict().values()
        ]
        assert getattr(ours, "transform_input", None) == getattr(theirs, "transform_input", None)


def test_all_published_weights_are_described_and_carry_a_digest() -> None:
    count = 0
    for network in known_torchvision_names():
        for member in torchvision.models.get_model_weights(network):
            if member.name == "IMAGENET1K_FEATURES":
                continue
            meta = torchvision_meta(network, member.name)
            count += 1
            assert len(meta.labels) == 1000
            assert DIGEST_IN_NAME.search(meta.file_name), meta.file_name
            assert 0 < meta.crop_size <= meta.resize_size
    assert count >= 114  # torchvision 0.29


def test_unknown_weights_are_answered_with_those_there_are() -> None:
    with pytest.raises(ArtifactError, match="there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        torchvision_meta("resnet50", "IMAGENET21K")
    with pytest.raises(ArtifactError, match="not a classification model"):
        torchvision_meta("resnet51", "IMAGENET1K_V1")


def test_weights_without_a_classifier_are_refused() -> None:
    with pytest.raises(ArtifactError, match="features without a classifier"):
        torchvision_meta("vgg16", "IMAGENET1K_FEATURES")


def test_published_weights_are_recognised_by_their_file_name() -> None:
    found = torchvision_weights_of("resnet50", Path("some/where/resnet50-11ad3fa6.pth"))

    assert found is not None
    assert found.weights == "IMAGENET1K_V2"
    assert torchvision_weights_of("resnet50", Path("mine.pth")) is None
    assert torchvision_weights_of("resnet50", Path("50-11ad3fa6.pth")) is None
    assert torchvision_weights_of("resnet18", Path("resnet50-11ad3fa6.pth")) is None


def test_a_cached_file_is_read_without_fetching(cache: Path) -> None:
    meta = published(cache)
    network = build_network(
        Architecture.parse("torchvision:squeezenet1_1", meta.builder_kwargs), None
    )

    checkpoint = read_torchvision_weights(meta)
    load_strictly(network, checkpoint)

    assert checkpoint.path == cache / meta.file_name
    assert network.classifier[1].bias.tolist() == checkpoint.tensors["classifier.1.bias"].tolist()


def test_a_file_that_is_not_cached_is_fetched_and_kept(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    meta = published(tmp_path / "server", scheme=(tmp_path / "server").as_uri())

    assert len(read_torchvision_weights(meta).tensors) == 52
    assert (cache / meta.file_name).is_file()


def damage_cached(cache: Path, tmp_path: Path) -> TorchvisionWeights:
    meta = published(cache)
    damage(cache / meta.file_name)
    return meta


def damage_remote(cache: Path, tmp_path: Path) -> TorchvisionWeights:
    (tmp_path / "server").mkdir()
    meta = published(tmp_path / "server", scheme=(tmp_path / "server").as_uri())
    damage(tmp_path / "server" / meta.file_name)
    return meta


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [damage_cached, damage_remote])
def test_a_damaged_file_is_refused_cached_or_fetched(
    cache: Path, tmp_path: Path, damaged: Callable[[Path, Path], TorchvisionWeights]
) -> None:
    with pytest.raises(ArtifactError, match=r"sha256 starts with|invalid hash value"):
        read_torchvision_weights(damaged(cache, tmp_path))


def test_a_file_that_cannot_be_fetched_names_the_address_and_the_way_out(
    cache: Path, tmp_path: Path
) -> None:
    meta = replace(
        torchvision_meta("resnet18", "IMAGENET1K_V1"),
        url=(tmp_path / "absent-0123abcd.pth").as_uri(),
    )

    with pytest.raises(ArtifactError, match=r"absent-0123abcd\.pth: cannot be fetched .*elsewhere"):
        read_torchvision_weights(meta)
    assert list(cache.iterdir()) == []
