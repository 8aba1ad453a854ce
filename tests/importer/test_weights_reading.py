"""Weights: read from every form training leaves them in, and nothing else."""

import argparse
import collections
import datetime
import hashlib
import json
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from image_classifier.artifact.manifest import Architecture
from importer.errors import ImportRefused
from importer.network import build_network
from importer.weights import load_strictly, read_state_dict
from tests.shared_data import SHARED, needs_shared_data

RAW = OrderedDict(weight=torch.full((2, 3), 1.5), bias=torch.tensor([0.25, -4.0]))
EMA = OrderedDict(weight=torch.full((2, 3), 2.5), bias=torch.tensor([0.5, -8.0]))
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}


def saved(tmp_path: Path, content: object, name: str = "checkpoint.pt", **options: Any) -> Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def prefixed(prefix: str, tensors: dict[str, torch.Tensor] = RAW) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_holds(path: Path, expected: dict[str, torch.Tensor], **where: Any) -> None:
    tensors = read_state_dict(path, **where).state
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_state_dict_is_read_bare_or_in_a_training_checkpoint(
    tmp_path: Path, zipped: bool
) -> None:
    bare = saved(tmp_path, RAW, _use_new_zipfile_serialization=zipped)

    assert_holds(bare, RAW)
    assert read_state_dict(bare).found_at == ""
    for key in ("state_dict", "model", "model_state_dict", "net", "weights", "anything"):
        content = {"epoch": 7, "best": 91.5, "optimizer": OPTIMIZER, key: RAW, "note": "x"}
        path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
        assert_holds(path, RAW)
        assert read_state_dict(path).found_at == key


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    safetensors.torch.save_file(RAW, tmp_path / "weights.pth")

    assert_holds(tmp_path / "weights.pth", RAW)


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


def test_weights_two_levels_down_are_found(tmp_path: Path) -> None:
    path = saved(tmp_path, {"checkpoint": {"epoch": 3, "model": RAW}})

    assert read_state_dict(path).found_at == "checkpoint/model"
    assert_holds(path, RAW, key="checkpoint/model")


def test_a_tensor_beside_the_weights_does_not_hide_them(tmp_path: Path) -> None:
    assert_holds(saved(tmp_path, {"loss": torch.tensor(0.5), "model": RAW}), RAW)


def test_a_given_prefix_takes_the_names_that_have_it(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": prefixed("model.") | prefixed("ema_model.", EMA)})

    assert_holds(path, EMA, prefix="ema_model.")
    with pytest.raises(ImportRefused, match=r"starts with 'ema\.'; the first is 'model\.weight'"):
        read_state_dict(path, prefix="ema.")


def test_ignored_names_are_left_out_and_listed(tmp_path: Path) -> None:
    content = {**RAW, "aux.weight": torch.ones(4), "aux.bias": torch.ones(1), "epoch": 3}
    path = saved(tmp_path, content)

    checkpoint = read_state_dict(path, ignore=("aux.*", "epoch"))

    assert checkpoint.state.keys() == {"weight", "bias"}
    assert checkpoint.ignored == ("aux.weight", "aux.bias", "epoch")
    with pytest.raises(ImportRefused, match=r"no name like 'auxx\.\*'"):
        read_state_dict(path, ignore=("aux.*", "auxx.*"))


def test_which_weights_to_take_is_asked_where_nothing_tells(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": RAW, "model_ema": EMA, "epoch": 3})
    with pytest.raises(ImportRefused, match="at key 'modle'; weights are at: model, model_ema"):
        read_state_dict(path, key="modle")

    path = saved(tmp_path, {"teacher": EMA, "student": RAW})
    with pytest.raises(ImportRefused, match=r"\(teacher, student\); name one with --weights-key"):
        read_state_dict(path)
    assert_holds(path, RAW, key="student")


def test_the_optimizer_is_never_taken_for_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, {"optimizer": {"momentum": torch.ones(3)}, "epoch": 1})

    with pytest.raises(ImportRefused, match=r"holds no weights .*'optimizer': dict, 'epoch': int"):
        read_state_dict(path)


def test_something_that_is_no_tensor_among_the_weights_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {**RAW, "epoch": 3})

    with pytest.raises(ImportRefused, match=r"2 tensors and also 'epoch' \(int\); .*-ignore 'epo"):
        read_state_dict(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_plain_values_of_a_training_script_beside_the_weights_do_no_harm(
    tmp_path: Path, zipped: bool
) -> None:
    history: Any = collections.defaultdict(list, loss=[0.5])
    content = {
        "args": argparse.Namespace(lr=0.1, device="cuda", out=Path("runs/7")),
        "best": np.float64(0.91),
        "counts": np.array([1, 2, 3]),
        "started": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
        "took": datetime.timedelta(hours=3),
        "history": history,
        "run": uuid.uuid4(),
        "where": Path("runs/7"),
        "model": collections.defaultdict(int, RAW),
    }

    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)

    assert_holds(path, RAW)


@pytest.mark.parametrize("name", [7, "weight\n", "\x1b[2Jweight"])
def test_names_that_are_none_are_refused_and_shown_harmlessly(tmp_path: Path, name: object) -> None:
    path = saved(tmp_path, {**RAW, name: torch.ones(1)})

    with pytest.raises(ImportRefused, match=r"the file holds .*; expected names") as caught:
        read_state_dict(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "found"),
    [({}, "it is empty"), ([torch.ones(2)], "it is a list"), (torch.ones(2), "it is a Tensor")],
)
def test_a_file_without_named_tensors_is_refused(
    tmp_path: Path, content: object, found: str
) -> None:
    with pytest.raises(ImportRefused, match=f"holds no weights \\({found}\\)"):
        read_state_dict(saved(tmp_path, content))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_by_their_index_and_by_one_of_them(tmp_path: Path, suffix: str) -> None:
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    for number, name in enumerate(RAW, start=1):
        save({name: RAW[name]}, tmp_path / f"model-{number:05}-of-00002.{suffix}")
    index = tmp_path / f"model.{suffix}.index.json"
    weight_map = {"weight": f"model-00001-of-00002.{suffix}"} | {
        "bias": f"model-00002-of-00002.{suffix}"
    }
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    assert_holds(index, RAW)
    assert_holds(tmp_path / f"model-00002-of-00002.{suffix}", RAW)

    (tmp_path / f"model-00001-of-00002.{suffix}").unlink()
    with pytest.raises(ImportRefused, match=r"shard 'model-00001-of-00002\..*' is not beside it"):
        read_state_dict(index)
    index.unlink()
    with pytest.raises(ImportRefused, match=r"index\.json: not there; .*one shard of several"):
        read_state_dict(tmp_path / f"model-00002-of-00002.{suffix}")


def test_shards_outside_the_folder_of_their_index_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    safetensors.torch.save_file(RAW, tmp_path / "outside.safetensors")
    index = tmp_path / "inner" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": "../outside.safetensors"}}))

    with pytest.raises(ImportRefused, match="is not beside it"):
        read_state_dict(index)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tensors_stay_on_disk_until_they_are_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else safetensors.torch.save_file)(RAW, path)
    network = torch.nn.Linear(3, 2)
    checkpoint = read_state_dict(path)
    load_strictly(network, checkpoint)

    # 0.25 and -4.0 stand in the file once; what is mapped shows the change, what is loaded not.
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(np.array([0.25, -4.0], np.float32).tobytes()))
        file.write(np.array([9.0, 9.0], np.float32).tobytes())

    assert checkpoint.state["bias"].tolist() == [9.0, 9.0]
    assert network.bias.tolist() == [0.25, -4.0]


@pytest.mark.parametrize("digits", [8, 9, 16, 64])
def test_a_digest_in_the_name_is_compared_with_the_content(tmp_path: Path, digits: int) -> None:
    path = saved(tmp_path, RAW)
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    good = path.rename(tmp_path / f"net-{actual[:digits]}.pth")
    assert_holds(good, RAW)

    wrong = actual[: digits - 1] + ("a" if actual[digits - 1] != "a" else "b")
    bad = good.rename(tmp_path / f"net-{wrong}.pth")

    with pytest.raises(ImportRefused, match=f"starts with {wrong}, it is {actual[:16]}"):
        read_state_dict(bad)


@pytest.mark.parametrize(
    "name", ["net-20240131.pth", "net-final.pth", "net-abc.pth", "abcdef12.pth", "net-ABCDEF12.pth"]
)
def test_other_endings_of_names_are_no_digest(tmp_path: Path, name: str) -> None:
    assert_holds(saved(tmp_path, RAW, name), RAW)


@needs_shared_data
@pytest.mark.parametrize(
    ("weights", "network", "preset", "model"),
    [
        ("resnet20-12fca82f.th", "cifar_resnet.py:build", (32, 32), "resnet20_cifar10"),
        ("squeezenet1_1_imagenet.pth", "torchvision:squeezenet1_1", (224, 256), ""),
        ("squeezenet1_1_imagenet.safetensors", "torchvision:squeezenet1_1", (224, 256), ""),
    ],
)
def test_published_weights_reproduce_their_golden_logits(
    weights: str, network: str, preset: tuple[int, int], model: str
) -> None:
    from torchvision.transforms._presets import ImageClassification

    built = build_network(Architecture.parse(network, {}), Path(__file__).parent)
    load_strictly(built, read_state_dict(SHARED / "weights" / weights))

    transform = ImageClassification(crop_size=preset[0], resize_size=preset[1])
    name = model or "squeezenet1_1_imagenet"
    golden = np.load(SHARED / "golden" / f"{name}.nips17_dev.npz", allow_pickle=False)
    for file, expected in list(zip(golden["files"], golden["logits"], strict=True))[:3]:
        image = Image.open(SHARED / "images" / "nips17_dev" / str(file)).convert("RGB")
        with torch.inference_mode():
            logits = built(transform(image)[None])[0].numpy()
        # The tolerance for eager float32 that the README of the data states.
        assert np.abs(logits - expected).max() <= 2e-5
