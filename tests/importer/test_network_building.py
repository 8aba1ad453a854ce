"""Networks: torchvision's by name, a user's by file and function."""

from pathlib import Path

import pytest
import torch
import torchvision
from pydantic import ValidationError

from importer.errors import ImportRefused as ArtifactError
from image_classifier.artifact.manifest import Architecture
from importer.network import build_network, source_folder, sources
from importer.torchvision_models import known_torchvision_names

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def torchvision_network(name: str, **kwargs: object) -> torch.nn.Module:
    return build_network(Architecture.parse(f"torchvision:{name}", kwargs), None)


def test_every_torchvision_classifier_can_be_named() -> None:
    names = known_torchvision_names()

    # Each module of torchvision.models that defines a classifier contributes at least this one.
    assert {
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s",
        "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2",
        "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d",
        "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16",
        "wide_resnet50_2",
    } <= set(names)  # fmt: skip
    assert "quantized_resnet18" not in names
    assert "fcn_resnet50" not in names
    assert "r3d_18" not in names


def test_every_torchvision_classifier_builds_with_a_given_number_of_classes() -> None:
    # On the meta device nothing is allocated; RegNet computes its widths with tensors and cannot.
    with torch.device("meta"):
        for name in known_torchvision_names():
            if not name.startswith("regnet"):
                network = torchvision_network(name, num_classes=7)
                assert 7 in {value.shape[0] for value in network.parameters()}, name


@pytest.mark.parametrize("name", ["regnet_x_400mf", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_built_network_is_in_evaluation_mode_and_gives_logits(name: str) -> None:
    network = torchvision_network(name, num_classes=7)

    logits = network(torch.zeros(2, 3, 64, 64))

    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())
    assert logits.shape == (2, 7)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_networks_with_auxiliary_heads_return_logits_alone(name: str, side: int) -> None:
    logits = torchvision_network(name, num_classes=7)(torch.zeros(1, 3, side, side))

    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (1, 7)


def test_builder_arguments_reach_torchvision() -> None:
    network = torchvision_network("googlenet", aux_logits=False, transform_input=True)

    assert network.aux1 is None
    assert network.transform_input is True


def test_an_unknown_torchvision_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ArtifactError, match=r"resnet5:.*close are .*resnet50"):
        torchvision_network("resnet5")


def test_a_name_like_no_other_is_answered_with_all_names() -> None:
    with pytest.raises(ArtifactError, match=r"there are alexnet, .*wide_resnet50_2"):
        torchvision_network("qqqqqqqq")


def test_a_torchvision_model_that_is_no_classifier_is_refused() -> None:
    assert "fcn_resnet50" in torchvision.models.list_models()

    with pytest.raises(ArtifactError, match="not a classification model"):
        torchvision_network("fcn_resnet50")


def test_an_unknown_builder_argument_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"TypeError: .*num_klasses"):
        torchvision_network("resnet18", num_klasses=3)


@pytest.mark.parametrize("argument", ["weights", "pretrained", "progress", "weights_backbone"])
def test_arguments_that_decide_about_weights_are_refused(argument: str) -> None:
    with pytest.raises(ArtifactError, match=f"{argument} cannot be set"):
        Architecture.parse("torchvision:resnet18", {argument: True})


@pytest.mark.parametrize(
    "text",
    ["resnet50", "torchvision:", "torchvision:resnet-50", "network.py", "network.py:", "net.txt:f",
     "network.py:1st", ""],
)  # fmt: skip
def test_other_forms_of_a_network_are_refused_with_the_two_that_are_taken(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"expected torchvision:NAME or PATH\.py:FUNCTION"):
        Architecture.parse(text, {})


def test_a_source_file_is_named_without_its_folder() -> None:
    architecture = Architecture.parse("some/where/network.py:build", {"depth": 20})

    assert architecture.model_dump() == {
        "torchvision": None,
        "file": "network.py",
        "builder": "build",
        "kwargs": {"depth": 20},
    }
    assert source_folder("some/where/network.py:build") == Path("some/where")
    assert source_folder("torchvision:resnet50") is None


def test_an_architecture_survives_json() -> None:
    architecture = Architecture.parse("torchvision:vit_b_16", {"image_size": 384})

    assert Architecture.model_validate_json(architecture.model_dump_json()) == architecture
    assert str(architecture) == "torchvision:vit_b_16(image_size=384)"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"torchvision": "resnet18", "file": "a.py", "builder": "f"},
        {"file": "a.py"},
        {"torchvision": "resnet18", "builder": "f"},
        {"file": "../a.py", "builder": "f"},
        {"file": "b/a.py", "builder": "f"},
        {"file": "a.py", "builder": "f()"},
        {"torchvision": "resnet18", "color": "red"},
    ],
)
def test_a_damaged_architecture_is_no_architecture(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Architecture.model_validate(data)


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Architecture(torchvision="resnet18").torchvision = "resnet50"


def test_a_network_of_a_file_is_built_by_its_function() -> None:
    architecture = Architecture.parse(f"{HERE}/cifar_resnet.py:build", {"num_classes": 4})

    network = build_network(architecture, HERE)

    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert not network.training


def test_a_class_is_a_builder_too() -> None:
    architecture = Architecture.parse("cifar_resnet.py:CifarResNet20", {})

    assert build_network(architecture, HERE).linear.out_features == 10


def test_a_missing_function_is_answered_with_what_the_file_defines() -> None:
    architecture = Architecture.parse("cifar_resnet.py:make", {})

    with pytest.raises(ArtifactError, match=r"no function 'make'.* BasicBlock, CifarResNet20"):
        build_network(architecture, HERE)


def test_a_builder_that_fails_is_quoted_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(): raise KeyError('a\\nb')")

    with pytest.raises(
        ArtifactError, match=r"net\.py:build: the builder raised KeyError"
    ) as caught:
        build_network(Architecture.parse("net.py:build", {}), tmp_path)

    assert "\n" not in str(caught.value)


def test_a_builder_must_return_a_network(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(): return {'a': 1}")

    with pytest.raises(ArtifactError, match=r"returned dict, expected a torch\.nn\.Module"):
        build_network(Architecture.parse("net.py:build", {}), tmp_path)


def test_a_file_without_its_folder_is_refused() -> None:
    with pytest.raises(ArtifactError, match="folder of its source file is not given"):
        build_network(Architecture.parse("net.py:build", {}), None)


def test_torchvision_networks_have_no_sources_and_files_have_theirs() -> None:
    assert sources(Architecture.parse("torchvision:resnet18", {}), None) == {}
    assert sources(Architecture.parse("cifar_resnet.py:build", {}), HERE) == {
        "cifar_resnet.py": HERE / "cifar_resnet.py"
    }
