"""Reading checkpoints: every form in which training saves weights, and nothing else."""

import argparse
import collections
import datetime
import hashlib
import json
import types
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from importer.errors import ImportRefused
from importer.weights import load_strictly, read_state_dict

RAW = OrderedDict(weight=torch.full((2, 3), 1.5), bias=torch.tensor([0.25, -4.0]))
EMA = OrderedDict(weight=torch.full((2, 3), 2.5), bias=torch.tensor([0.5, -8.0]))
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}
BOTH = {"model": RAW, "model_ema": EMA, "optimizer": OPTIMIZER}
PLAIN_VALUES: dict[str, object] = {
    "args": argparse.Namespace(lr=0.1, device="cuda", out=Path("runs/7")),
    "best": np.float64(0.91),
    "counts": np.array([1, 2, 3]),
    "started": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
    "took": datetime.timedelta(hours=3),
    "history": collections.defaultdict(list, loss=[0.5]),
    "where": Path("runs/7"),
    "torch": torch.__version__,
    "sizes": (frozenset({1}), range(3), slice(2)),
    "last": collections.deque([0.5, 0.25], maxlen=2),
    "run": (uuid.UUID(int=7), types.SimpleNamespace(lr=0.1)),
    "model": collections.defaultdict[str, object](int, RAW),
}


def saved(tmp_path: Path, content: object, name: str = "checkpoint.pt", **options: Any) -> Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def assert_holds(path: Path, expected: dict[str, torch.Tensor], **where: Any) -> None:
    tensors = read_state_dict(path, **where).state
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "where", "expected"),
    [
        (RAW, {}, RAW),
        ({"epoch": 7, "best": 91.5, "optimizer": OPTIMIZER, "net": RAW, "note": "x"}, {}, RAW),
        ({"loss": torch.tensor(0.5), "model": RAW}, {}, RAW),
        ({"temperature": torch.tensor(2.0), "net_state": RAW}, {}, RAW),
        ({"losses": [torch.tensor(0.5)], "encoder": RAW}, {}, RAW),
        ({"encoder": RAW, "opt_g": {"state": {0: {"exp_avg": torch.ones(2)}}}}, {}, RAW),
        ({"model": RAW, "prototypes": {0: torch.ones(2), 1: torch.ones(2)}}, {}, RAW),
        ({"encoder": RAW, "cuda_rng": [torch.ones(9, dtype=torch.uint8)]}, {}, RAW),
        ({"model": EMA, "state_dict": RAW}, {}, RAW),
        ({"checkpoint": {"epoch": 3, "model": RAW}}, {}, RAW),
        ({"checkpoint": {"model": RAW}, "model": EMA}, {"key": "checkpoint/model"}, RAW),
        (BOTH, {}, EMA),  # training reports the accuracy of the average
        ({"state_dict": RAW, "swa_state_dict": EMA}, {}, EMA),
        ({"model": {"raw": RAW, "ema": EMA}}, {}, EMA),
        # mmengine saves the average as the state dict.
        ({"state_dict": EMA, "ema_state_dict": {"steps": torch.tensor(9), **RAW}}, {}, EMA),
        ({"state_dict": RAW, "extra": {"ema": EMA}}, {}, EMA),
        ({"state_dict": dict.fromkeys("abcd", EMA["bias"]), "average": {"loss": torch.ones(1)}},
         {}, dict.fromkeys("abcd", EMA["bias"])),
        (BOTH, {"key": "model"}, RAW),
        ({"teacher": EMA, "student": RAW}, {"key": "student"}, RAW),
        ({"model.weight": RAW["weight"], "ema_model.bias": EMA["bias"]},
         {"prefix": "ema_model."}, {"bias": EMA["bias"]}),
        (PLAIN_VALUES, {}, RAW),
    ],
)  # fmt: skip
def test_weights_are_found_in_every_form_of_checkpoint(
    tmp_path: Path, zipped: bool, content: object, where: dict[str, str], expected: Any
) -> None:
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)

    assert_holds(path, expected, **where)


def test_a_note_names_weights_that_were_not_used(tmp_path: Path) -> None:
    for key, other in ((None, "model"), ("model", "model_ema")):
        (note,) = read_state_dict(saved(tmp_path, BOTH), key=key).notes
        assert note.endswith(f"there are also {other} (--weights-key)")


@pytest.mark.parametrize(
    "kept",
    [
        {"classes": ["wölf", "fox"]},
        {"classes": ["wo\u0308lf", "fox"]},  # as macOS writes the names of folders
        {"class_to_idx": {"fox": 1, "wölf": 0}},
        {"id2label": {"1": "fox", "0": "wölf"}},
        {"idx_to_class": {1: "fox", 0: "wölf"}},
        {"hyper_parameters": {"lr": 0.1, "class_names": ["wölf", "fox"]}},
        {"args": argparse.Namespace(classes=["wölf", "fox"])},
    ],
)
def test_the_classes_beside_the_weights_are_read(tmp_path: Path, kept: dict[str, object]) -> None:
    path = saved(tmp_path, {"state_dict": RAW, **kept})

    assert read_state_dict(path).classes == ("wölf", "fox")


def test_classes_that_share_an_output_are_no_order_of_labels(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": RAW, "class_to_idx": {"wolf": 0, "dog": 0, "fox": 1}})

    assert read_state_dict(path).classes == ()


def test_settings_beside_the_weights_are_noted_because_they_are_not_used(tmp_path: Path) -> None:
    beside = {
        "temperature": torch.tensor(1.5),
        "mean": None,
        "args": argparse.Namespace(img_size=256, crop_pct=0.9, lr=0.1, val_acc_mean=0.8),
    }

    other = {"other": {"mean": torch.zeros(2)}}  # weights, too
    _, note = read_state_dict(saved(tmp_path, {"state_dict": RAW, **beside, **other})).notes

    assert "also has temperature 1.5, img_size 256, crop_pct 0.9; not used" in note


AVERAGE_AS_LIST = {"model": RAW, "ema": {"decay": 0.9, "shadow_params": [*EMA.values()]}}


def test_averaged_weights_without_names_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    path = saved(tmp_path, AVERAGE_AS_LIST)

    with pytest.raises(ImportRefused, match=r"ema/shadow_params holds 0, .*-key: model$"):
        read_state_dict(path)

    (note,) = read_state_dict(path, key="model").notes
    assert note.endswith("there are also ema/shadow_params (--weights-key)")
    for key in ("shadow_params", "ema_state"):
        beside = saved(tmp_path, {"model": RAW, key: [*EMA.values()]}, key)
        with pytest.raises(ImportRefused, match=rf"{key} holds 0, .*-key: model$"):
            read_state_dict(beside)


def test_quantised_weights_are_refused_with_the_way_to_int8(tmp_path: Path) -> None:
    quantised = {"fc.scale": torch.ones(1), "fc._packed_params.dtype": torch.qint8}

    with pytest.raises(ImportRefused, match="quantised weights; give the checkpoint of the float"):
        read_state_dict(saved(tmp_path, quantised))


def test_names_without_the_prefix_are_noted(tmp_path: Path) -> None:
    names = ("net.weight", "net_ema.weight", "net_ema.bias", "loss.weight")
    path = saved(tmp_path, dict.fromkeys(names, torch.ones(1)))

    (note,) = read_state_dict(path, prefix="net.").notes

    assert note == "names that start with loss, net_ema are left out (--weights-prefix)"


def test_ignored_names_are_left_out_and_listed(tmp_path: Path) -> None:
    content = {**RAW, "aux.weight": torch.ones(4), "aux.bias": torch.ones(1), "epoch": 3}
    path = saved(tmp_path, content)

    checkpoint = read_state_dict(path, ignore=("aux.*", "epoch"))

    assert checkpoint.state.keys() == {"weight", "bias"}
    assert checkpoint.ignored == ("aux.weight", "aux.bias", "epoch")


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (RAW, {"prefix": "ema."}, r"starts with 'ema\.'; the first is 'weight'"),
        (BOTH, {"key": "modle"}, "at key 'modle'; weights are at: model, model_ema"),
        (RAW, {"key": "model"}, "at key 'model'; leave --weights-key out"),
        ({"teacher": EMA, "student": RAW}, {}, r"\(teacher, student\); choose .* --weights-key"),
        ({"backbone": RAW, "head": EMA}, {}, r"parts of one network, save .*\.state_dict\(\)\)"),
        ({"optimizer": {"momentum": torch.ones(3)}, "epoch": 1}, {},
         r"holds no weights but a dict with \['optimizer', 'epoch'\]"),
        (torch.ones(2), {}, "holds no weights but a Tensor"),
        ({**RAW, "epoch": 3}, {}, r"tensors and also 'epoch' \(int\); .*-ignore 'epoch'"),
        (dict([*RAW.items(), (7, torch.ones(1))]), {}, "the file holds 7, expected names"),
        ({**RAW, "\x1b[2Jweight\n": torch.ones(1)}, {}, "the file holds .*, expected names"),
    ],
)  # fmt: skip
def test_content_other_than_the_requested_weights_is_refused_in_one_printable_line(
    tmp_path: Path, content: object, where: Any, message: str
) -> None:
    with pytest.raises(ImportRefused, match=message) as caught:
        read_state_dict(saved(tmp_path, content), **where)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_through_their_index_or_any_shard(tmp_path: Path, suffix: str) -> None:
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    first, second = (tmp_path / f"model-{number:05}-of-00002.{suffix}" for number in (1, 2))
    save({"weight": RAW["weight"]}, first)
    save({"bias": RAW["bias"]}, second)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": first.name, "bias": second.name}}))

    assert_holds(index, RAW)
    assert_holds(second, RAW)

    first.unlink()
    with pytest.raises(ImportRefused, match=r"shard 'model-00001-of-00002\..*' is not beside it"):
        read_state_dict(index)
    index.unlink()
    with pytest.raises(ImportRefused, match=r"index\.json: not there; .*one shard of several"):
        read_state_dict(second)


def test_shards_outside_the_folder_of_their_index_are_refused(tmp_path: Path) -> None:
    outside, index = tmp_path / "w.safetensors", tmp_path / "inner" / "m.safetensors.index.json"
    index.parent.mkdir()
    safetensors.torch.save_file(RAW, outside)
    for name in ("../w.safetensors", str(outside)):
        index.write_text(json.dumps({"weight_map": {"weight": name}}))

        with pytest.raises(ImportRefused, match="is not beside it"):
            read_state_dict(index)


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_tensors_stay_on_disk_until_they_are_loaded(
    tmp_path: Path, save: Callable[[object, Path], None]
) -> None:
    path = tmp_path / "weights.pth"  # the content tells the format
    save(RAW, path)
    network = torch.nn.Linear(3, 2)
    checkpoint = read_state_dict(path)
    load_strictly(network, checkpoint)

    # 0.25 and -4.0 are in the file once; mapped tensors show the change, loaded ones do not.
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(np.array([0.25, -4.0], np.float32).tobytes()))
        file.write(np.array([9.0, 9.0], np.float32).tobytes())

    assert checkpoint.state["bias"].tolist() == [9.0, 9.0]
    assert network.bias.tolist() == [0.25, -4.0]


def test_a_file_of_torch_with_the_suffix_of_safetensors_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    file = saved(tmp_path, RAW).rename(tmp_path / "net.safetensors")

    with pytest.raises(ImportRefused, match=r"if torch\.save wrote it, rename it to \.pt"):
        read_state_dict(file)


def test_a_digest_in_the_name_must_be_that_of_the_content(tmp_path: Path) -> None:
    file = saved(tmp_path, RAW)
    actual = hashlib.sha256(file.read_bytes()).hexdigest()
    file = file.rename(tmp_path / f"net-{actual}.pth")
    assert_holds(file, RAW)
    file = file.rename(tmp_path / "net-0123abcd.pth")

    with pytest.raises(ImportRefused, match=f"starts with 0123abcd, it is {actual[:16]}"):
        read_state_dict(file)


@pytest.mark.parametrize(
    "name", ["net-20240131.pth", "net-final.pth", "net-abc.pth", "abcdef12.pth"]
)
def test_other_file_names_hold_no_digest(tmp_path: Path, name: str) -> None:
    assert_holds(saved(tmp_path, RAW, name), RAW)
