"""Weights: read from every form training leaves them in, and nothing else."""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from image_classifier.artifact.format import ArtifactError
from importer.weights import load_strictly, read_state_dict

RAW = OrderedDict(weight=torch.full((2, 3), 1.5), bias=torch.tensor([0.25, -4.0]))
EMA = OrderedDict(weight=torch.full((2, 3), 2.5), bias=torch.tensor([0.5, -8.0]))
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}


def saved(tmp_path: Path, content: object, name: str = "checkpoint.pt", **options: Any) -> Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def prefixed(prefix: str, tensors: dict[str, torch.Tensor] = RAW) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_holds(path: Path, expected: dict[str, torch.Tensor], **where: str) -> None:
    tensors = read_state_dict(path, **where).tensors
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_bare_state_dict_is_read(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, RAW, _use_new_zipfile_serialization=zipped)

    checkpoint = read_state_dict(path)

    assert_holds(path, RAW)
    assert (checkpoint.found_at, checkpoint.prefix, checkpoint.alternatives) == ("", "", ())


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(RAW, tmp_path / "weights.bin")

    assert_holds(tmp_path / "weights.bin", RAW)


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "net", "network", "weights", "anything"]
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_are_found_in_a_training_checkpoint(tmp_path: Path, key: str, zipped: bool) -> None:
    content = {"epoch": 7, "best": 91.5, "optimizer": OPTIMIZER, key: RAW, "note": "x"}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)

    assert_holds(path, RAW)
    assert read_state_dict(path).found_at == key


@pytest.mark.parametrize(
    "key", ["model_ema", "state_dict_ema", "ema_state_dict", "ema", "model_ema_state_dict"]
)
def test_averaged_weights_win_and_the_others_can_be_chosen(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path, {"model": RAW, key: EMA, "optimizer": OPTIMIZER})

    assert_holds(path, EMA)
    assert read_state_dict(path).alternatives == ("model",)
    assert_holds(path, RAW, key="model")
    assert read_state_dict(path, key="model").alternatives == (key,)


def test_among_raw_weights_state_dict_comes_first(tmp_path: Path) -> None:
    assert_holds(saved(tmp_path, {"model": EMA, "state_dict": RAW}), RAW)


def test_the_average_of_torch_optim_swa_utils_is_read(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    for bias in ([1.0, 2.0], [3.0, 6.0]):
        network.bias.data = torch.tensor(bias)
        averaged.update_parameters(network)
    path = saved(tmp_path, {"model": network.state_dict(), "model_ema": averaged.state_dict()})

    checkpoint = read_state_dict(path)

    assert checkpoint.averaged_steps == 2
    assert checkpoint.prefix == "module."
    assert set(checkpoint.tensors) == {"weight", "bias"}
    assert checkpoint.tensors["bias"].tolist() == [2.0, 4.0]


def test_weights_two_levels_down_are_found(tmp_path: Path) -> None:
    path = saved(tmp_path, {"checkpoint": {"epoch": 3, "model": RAW}})

    assert read_state_dict(path).found_at == "checkpoint/model"
    assert_holds(path, RAW, key="checkpoint/model")


def test_a_tensor_beside_the_weights_does_not_hide_them(tmp_path: Path) -> None:
    assert_holds(saved(tmp_path, {"loss": torch.tensor(0.5), "model": RAW}), RAW)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "net."]
)
def test_shared_wrappers_are_cut_off(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path, prefixed(prefix))

    assert_holds(path, RAW)
    assert read_state_dict(path).prefix == prefix


def test_a_prefix_of_some_names_only_stays(tmp_path: Path) -> None:
    content = prefixed("model.") | {"criterion.weight": torch.ones(2)}

    assert_holds(saved(tmp_path, content), content)


def test_a_given_prefix_takes_the_names_that_have_it(tmp_path: Path) -> None:
    content = {"state_dict": prefixed("model.") | prefixed("ema_model.", EMA)}

    assert_holds(saved(tmp_path, content), EMA, prefix="ema_model.")


def test_a_given_prefix_that_no_name_has_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, prefixed("model."))

    with pytest.raises(ArtifactError, match=r"starts with 'ema\.'; the first is 'model\.weight'"):
        read_state_dict(path, prefix="ema.")


def test_an_unknown_key_is_answered_with_those_there_are(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": RAW, "model_ema": EMA, "epoch": 3})

    with pytest.raises(ArtifactError, match="at key 'modle'; weights are at: model, model_ema"):
        read_state_dict(path, key="modle")


def test_weights_at_several_unknown_keys_must_be_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path, {"teacher": EMA, "student": RAW})

    with pytest.raises(ArtifactError, match=r"\(teacher, student\); name one with --weights-key"):
        read_state_dict(path)
    assert_holds(path, RAW, key="student")


def test_the_optimizer_is_never_taken_for_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, {"optimizer": {"momentum": torch.ones(3)}, "epoch": 1})

    with pytest.raises(ArtifactError, match=r"holds no weights .*'optimizer': dict, 'epoch': int"):
        read_state_dict(path)


def test_something_that_is_no_tensor_among_the_weights_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {**RAW, "epoch": 3})

    with pytest.raises(ArtifactError, match=r"holds 2 tensors and also 'epoch' \(int\)"):
        read_state_dict(path)


def test_the_arguments_of_a_training_script_do_no_harm(tmp_path: Path) -> None:
    content = {"model": RAW, "args": argparse.Namespace(lr=0.1, device="cuda"), "epoch": 3}

    assert_holds(saved(tmp_path, content), RAW)


@pytest.mark.parametrize("name", [7, "weight\n", "\x1b[2Jweight"])
def test_names_that_are_none_are_refused_and_shown_harmlessly(tmp_path: Path, name: object) -> None:
    path = saved(tmp_path, {**RAW, name: torch.ones(1)})

    with pytest.raises(ArtifactError, match=r"the file holds .*; expected names") as caught:
        read_state_dict(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "found"),
    [({}, "it is empty"), ([torch.ones(2)], "it is a list"), (torch.ones(2), "it is a Tensor")],
)
def test_a_file_without_named_tensors_is_refused(
    tmp_path: Path, content: object, found: str
) -> None:
    with pytest.raises(ArtifactError, match=f"holds no weights \\({found}\\)"):
        read_state_dict(saved(tmp_path, content))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tensors_stay_on_disk_until_they_are_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else safetensors.torch.save_file)(RAW, path)
    network = torch.nn.Linear(3, 2)
    checkpoint = read_state_dict(path)
    load_strictly(network, checkpoint)

    # 0.25 and -4.0 stand in the file once; what is mapped shows the change, what is loaded not.
    with path.open("r+b") as file:
        place = path.read_bytes().index(np.array([0.25, -4.0], np.float32).tobytes())
        file.seek(place)
        file.write(np.array([9.0, 9.0], np.float32).tobytes())

    assert checkpoint.tensors["bias"].tolist() == [9.0, 9.0]
    assert network.bias.tolist() == [0.25, -4.0]
