"""torchvision: every classifier, its published weights, and arguments that no weights show."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision.models
from torch import nn

from image_classifier.artifact.manifest import Architecture
from importer.errors import ImportRefused
from importer.export import export_onnx
from importer.failures import quiet_exporter
from importer.network import build_network, read_network
from importer.options import ModelOptions
from importer.pixels_to_logits import PixelsToLogits
from importer.torchvision_models import (
    WITH_AUXILIARY_HEADS,
    TorchvisionWeights,
    builder_arguments,
    published_file,
    published_weights,
    torchvision_meta,
)
from importer.weights import DIGEST_IN_NAME, read_state_dict
from preprocessing import InputSpec, PreprocessingSpec, Resize
from tests.changes import flip_bit

NO_FOLDER = Path("no folder")
CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)


def built(name: str, **kwargs: Any) -> Any:
    return build_network(Architecture(torchvision=name, kwargs=kwargs), NO_FOLDER)


# Names and arguments


def test_arguments_reach_the_builder_and_a_wrong_one_is_named() -> None:
    network = built("googlenet", aux_logits=False, transform_input=True)

    assert (network.aux1, network.transform_input) == (None, True)
    with pytest.raises(ImportRefused, match=r"builder raised TypeError: .*num_klasses.*; check"):
        built("resnet18", num_klasses=3)
    with pytest.raises(ImportRefused, match="multiple values for keyword argument 'weights'"):
        built("resnet18", weights="DEFAULT")


@pytest.mark.parametrize(("name", "head"), [("googlenet", "aux1"), ("inception_v3", "AuxLogits")])
def test_auxiliary_heads_are_built_if_the_weights_have_them(name: str, head: str) -> None:
    requested = {"transform_input": False}

    for names, expected in ((["fc.bias"], False), ([f"module.{head}.fc.bias"], True)):
        arguments = builder_arguments(name, requested, names, None)
        assert arguments == {"transform_input": False, "aux_logits": expected}


def test_an_argument_that_fine_tuned_weights_do_not_show_is_required() -> None:
    with pytest.raises(
        ImportRefused, match=r"depend on transform_input, .*--network-kwargs '{\"transform_input\""
    ):
        builder_arguments("googlenet", {"num_classes": 3}, ["fc.bias"], None)

    published = torchvision_meta("googlenet", "DEFAULT")
    requested = {"transform_input": False}  # takes precedence
    assert builder_arguments("googlenet", requested, [], published)["transform_input"] is False


# Built as torchvision does

SEEN_IN_TENSORS = ("num_classes", "image_size", "aux_logits")
"""Arguments that change the names or shapes of the weights, so that wrong ones do not load."""


def plain_attributes(network: nn.Module) -> dict[str, object]:
    """Everything but tensors that decides what modules compute."""
    found: dict[str, object] = {}
    for name, module in network.named_modules():
        found[f"{name}: class"] = type(module).__name__
        for key, item in vars(module).items():
            plain = isinstance(item, (int, float, str, bool, tuple, list))
            if plain and not key.startswith("_") and key != "training":
                found[f"{name}.{key}"] = item
    return found


SOME = ("googlenet", "inception_v3", "vit_b_16")
"""Networks with arguments that follow from their weights."""


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    "name",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.all) for name in CLASSIFIERS],
)
def test_a_network_is_built_as_torchvision_builds_it_with_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchvision's own builder with weights, their download replaced by nothing.
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    # On the meta device nothing is allocated; RegNet computes its widths with tensors and cannot.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        for member in torchvision.models.get_model_weights(name):
            if member.name == "IMAGENET1K_FEATURES":
                continue
            reference = torchvision.models.get_model(name, weights=member)
            published = torchvision_meta(name, member.name)
            assert len(published.labels) == 1000
            # A digest without a letter could be a date.
            dates = ("vgg13-19584684.pth", "vit_h_14_swag-80465313.pth")
            assert DIGEST_IN_NAME.search(published.url) or published.url.endswith(dates)
            arguments = builder_arguments(name, {}, [*reference.state_dict()], published)
            seen = {key: item for key, item in arguments.items() if key in SEEN_IN_TENSORS}
            plain = plain_attributes(torchvision.models.get_model(name, weights=None, **seen))
            expected = plain_attributes(reference)

            assert plain_attributes(built(name, **arguments)) == expected
            # The import requires exactly the arguments that fine-tuned weights do not show.
            unseen = {".transform_input"} if name in WITH_AUXILIARY_HEADS else set()
            assert {key for key, item in plain.items() if item != expected.get(key)} == unseen


# Published weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub; nothing outside it is read."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def published(folder: Path) -> TorchvisionWeights:
    """Save weights under a name of torch.hub, and describe them as published there."""
    torch.save({"weight": torch.ones(9)}, folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    file = (folder / "net.pth").rename(folder / f"net-{digest}.pth")
    return replace(torchvision_meta("resnet18", "IMAGENET1K_V1"), url=file.as_uri())


def test_published_weights_bring_their_documented_transform_and_labels() -> None:
    meta = torchvision_meta("resnet50", "IMAGENET1K_V2")

    assert meta.preprocessing == PreprocessingSpec.model_validate(
        {"resize": {"size": 232, "interpolation": "bilinear"}, "crop": 224,
         "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    )  # fmt: skip
    assert meta.labels[:2] == ("tench", "goldfish")
    assert torchvision_meta("resnet50", "DEFAULT") == meta
    vit = torchvision_meta("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    assert vit.builder_kwargs == {"image_size": 384}
    assert vit.preprocessing.resize == Resize(size=384, interpolation="bicubic")


@pytest.mark.parametrize(
    ("network", "weights", "reason"),
    [
        ("resnet5", "DEFAULT", r"no classifier 'resnet5'; did you mean resnet50\?"),
        ("fcn_resnet50", "DEFAULT", "no classifier 'fcn_resnet50'"),
        ("resnet18", "V1", "'V1' of resnet18; expected a file or one of IMAGENET1K_V1, DEFAULT"),
        ("vgg16", "IMAGENET1K_FEATURES", "features without a classifier"),
    ],
)
def test_unknown_names_and_weights_without_a_classifier_are_refused(
    network: str, weights: str, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        published_weights(network, weights)


def test_published_weights_are_recognised_by_name_and_by_file_name(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    for text in ("some/where/resnet50-11ad3fa6.pth", "IMAGENET1K_V2"):
        found = published_weights("resnet50", text)
        assert found == torchvision_meta("resnet50", "IMAGENET1K_V2")
    for text in ("mine.pth", str(tmp_path / "mine"), "50-11ad3fa6.pth"):
        assert published_weights("resnet50", text) is None


def test_a_published_file_is_fetched_once_and_then_read_from_the_cache(
    cache: Path, tmp_path: Path
) -> None:
    remote = published(tmp_path)

    fetched = published_file(remote)
    (tmp_path / fetched.name).unlink()

    assert fetched.parent == cache
    assert published_file(remote) == fetched
    assert "weight" in read_state_dict(fetched).state


@pytest.mark.usefixtures("cache")
def test_a_file_that_is_damaged_when_it_is_fetched_is_refused(tmp_path: Path) -> None:
    meta = published(tmp_path)
    (file,) = tmp_path.glob("*.pth")
    flip_bit(file)

    with pytest.raises(ImportRefused, match="invalid hash value"):
        published_file(meta)


def test_a_file_that_cannot_be_fetched_names_the_address_and_the_way_out(
    cache: Path, tmp_path: Path
) -> None:
    meta = torchvision_meta("resnet18", "IMAGENET1K_V1")
    absent = replace(meta, url=(tmp_path / "absent-0123abcd.pth").as_uri())

    with pytest.raises(ImportRefused, match=r"absent-0123abcd\.pth: cannot be fetched .*elsewhere"):
        published_file(absent)
    assert list(cache.iterdir()) == []


# Read and exported

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)


def side_of(name: str) -> int:
    """Return about the smallest side that the network takes, 56 for vit_h_14."""
    if name.startswith("maxvit"):  # its windows of 7 must divide the side after five halvings
        return 224
    patch = re.fullmatch(r"vit_._(\d+)", name)
    return 4 * int(patch[1]) if patch else 96  # Inception needs 75


def trained(name: str, kwargs: dict[str, Any]) -> nn.Module:
    """Return a random network without zero parameters, with which some heads start."""
    torch.manual_seed(0)
    more = {"init_weights": True} if name in WITH_AUXILIARY_HEADS else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **kwargs, **more).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def read_equal_to_eager(name: str, folder: Path) -> tuple[PixelsToLogits, np.ndarray, np.ndarray]:
    """Save a network of three classes and read it; return it, pixels and the eager logits."""
    side = side_of(name)
    kwargs: dict[str, Any] = {"num_classes": 3}
    kwargs |= {"image_size": side} if name.startswith("vit") else {}
    kwargs |= {"transform_input": True} if name in WITH_AUXILIARY_HEADS else {}
    eager = trained(name, kwargs)
    torch.save(eager.state_dict(), folder / "weights.pt")
    pixels = PIXELS[:, :side, :side]
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    with torch.inference_mode():
        expected = eager((batch - 0.5) / 0.25)

    options = ModelOptions.model_construct(
        network=f"torchvision:{name}", network_kwargs=kwargs, weights=str(folder / "weights.pt")
    )
    source = read_network(options, folder)

    spec = InputSpec(shape=(side, side, 3), dtype="uint8", mean=(0.5,) * 3, std=(0.25,) * 3)
    network = PixelsToLogits(source.network, spec).eval()
    with torch.inference_mode():
        assert torch.equal(network(torch.from_numpy(pixels)), expected)
    return network, pixels, expected.numpy()


@pytest.mark.parametrize("name", ["googlenet", "regnet_y_400mf"])
def test_a_saved_network_is_read_and_equals_eager(tmp_path: Path, name: str) -> None:
    read_equal_to_eager(name, tmp_path)


@pytest.mark.all
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_saved_network_and_its_graph_equal_eager(tmp_path: Path, name: str) -> None:
    network, pixels, expected = read_equal_to_eager(name, tmp_path)

    with quiet_exporter("export"):
        export_onnx(network, pixels, tmp_path / "network.onnx")

    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
    for batch in (pixels, pixels[:1]):
        (logits,) = session.run(None, {"batch": batch})
        difference = np.abs(logits - expected[: len(batch)]) / np.maximum(1, np.abs(logits))
        assert difference.max() <= 1e-3  # the gate of fp32 engines
    for path in tmp_path.iterdir():  # pytest keeps folders; these are up to 2.6 GB
        path.unlink()
