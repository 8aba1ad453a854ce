"""Loading weights: all names and shapes match, or the differences are listed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from importer.errors import ImportRefused
from importer.network import save_weights
from importer.weights import load_strictly, read_state_dict


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)


GOOD = {
    "conv.weight": torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1),
    "conv.bias": torch.tensor([3.0, 4.0]),
    "norm.weight": torch.tensor([5.0, 6.0]),
    "norm.bias": torch.tensor([7.0, 8.0]),
    "norm.running_mean": torch.tensor([9.0, 10.0]),
    "norm.running_var": torch.tensor([11.0, 12.0]),
    "norm.num_batches_tracked": torch.tensor(13),
}


def load(
    network: nn.Module, tensors: object, folder: Path, **where: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    torch.save(tensors, folder / "weights.pt")
    return load_strictly(network, read_state_dict(folder / "weights.pt", **where))


def failure(network: nn.Module, tensors: object, tmp_path: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        load(network, tensors, tmp_path)
    return str(caught.value)


def assert_equal(network: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    assert {name: value.tolist() for name, value in network.state_dict().items()} == {
        name: value.tolist() for name, value in expected.items()
    }


class Merging(nn.Linear):
    """Adds its low rank part to the weight when the evaluation mode begins, as loralib does."""

    def __init__(self) -> None:
        super().__init__(2, 2, bias=False)
        self.part = nn.Parameter(torch.zeros(2, 2))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -self.part if mode else self.part
            self.merged = not mode
        return self


def test_weights_are_loaded_in_training_mode_and_merged_in_evaluation_mode(tmp_path: Path) -> None:
    network = Merging().eval()

    load(network, {"weight": torch.eye(2), "part": torch.ones(2, 2)}, tmp_path)

    assert network.weight.tolist() == [[2.0, 1.0], [1.0, 2.0]]


# Names


def test_wrappers_anywhere_in_a_name_are_removed(tmp_path: Path) -> None:
    network = Net()
    fsdp = {name.replace(".", "._fsdp_wrapped_module."): GOOD[name] for name in GOOD}
    content = {f"module._checkpoint_wrapped_module.{name}": fsdp[name] for name in fsdp}

    assert load(network, content, tmp_path) == ((), ())

    assert_equal(network, GOOD)


@pytest.mark.parametrize(
    ("start", "prefix"),
    [("classifier.backbone.", "classifier.backbone."), ("model._orig_mod.", "model.")],
)
def test_a_prefix_that_all_names_share_is_removed_with_a_note(
    tmp_path: Path, start: str, prefix: str
) -> None:
    network = Net()

    _, notes = load(network, {f"{start}{name}": GOOD[name] for name in GOOD}, tmp_path)

    assert_equal(network, GOOD)
    assert notes == (f"the prefix {prefix!r} was removed from all names of the weights",)


class Migrating(nn.Linear):
    """Weights of its first version had the opposite sign."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *more: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = -state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, metadata, *more)


@pytest.mark.parametrize(("wrapper", "where"), [("module", {}), ("ema", {"prefix": "ema."})])
def test_module_versions_are_found_behind_a_prefix(
    tmp_path: Path, wrapper: str, where: dict[str, str]
) -> None:
    trained, network = nn.Sequential(Migrating(2, 1)), nn.Sequential(Migrating(2, 1))

    load(network, nn.ModuleDict({wrapper: trained}).state_dict(), tmp_path, **where)

    assert_equal(network, trained.state_dict())


def test_a_network_may_have_a_module_named_like_a_wrapper(tmp_path: Path) -> None:
    trained, network = (
        nn.ModuleDict({"module": nn.ModuleDict({"fc": nn.Linear(2, 2)}), "fc": nn.Linear(2, 2)})
        for _ in range(2)
    )

    load(network, trained.state_dict(), tmp_path)

    assert_equal(network, trained.state_dict())


def test_weights_load_into_a_wrapped_network_with_a_note(tmp_path: Path) -> None:
    wrapped = nn.DataParallel(nn.ModuleDict({"model": Net()}))

    _, notes = load(wrapped, GOOD, tmp_path)

    assert_equal(wrapped.module["model"], GOOD)
    assert notes == ("the prefix 'model.' was added to all names of the weights",)


def test_a_prefix_with_which_some_names_fit_is_suggested(tmp_path: Path) -> None:
    content = {f"{who}.{name}": GOOD[name] for who in ("student", "teacher") for name in GOOD}
    content["criterion.weight"] = torch.ones(2)
    network = Net()

    message = failure(network, content, tmp_path)
    load(network, content, tmp_path, prefix="teacher.")

    assert message.endswith(
        "add --weights-prefix 'student.' or --weights-prefix 'teacher.'; "
        "other names are then left out"
    )
    assert_equal(network, GOOD)


def test_counters_of_known_tools_are_ignored_with_a_note(tmp_path: Path) -> None:
    counters = dict.fromkeys(("total_ops", "conv.total_params", "n_averaged"), torch.ones(1))

    ignored, notes = load(Net(), GOOD | counters, tmp_path)

    assert ignored == tuple(counters)
    assert notes == (
        "3 entries that do not affect answers were ignored (n_averaged, total_ops, total_params)",
    )


def test_the_names_of_torchvisions_published_densenets_load(tmp_path: Path) -> None:
    import torchvision.models

    blocks = {"block_config": (1, 1), "num_init_features": 4}
    trained, network = (torchvision.models.DenseNet(growth_rate=4, **blocks) for _ in range(2))
    older: dict[str, torch.Tensor] = dict(trained.state_dict())
    for name, before in {"norm1.": "norm.1.", "conv2.": "conv.2."}.items():
        assert any(name in own for own in older)
        older = {own.replace(name, before): item for own, item in older.items()}

    load(network, older, tmp_path)

    assert_equal(network, trained.state_dict())


def test_an_mnasnet_loads_without_versions_though_its_migration_demands_one(tmp_path: Path) -> None:
    import torchvision.models

    trained, network = (torchvision.models.mnasnet0_5(num_classes=3) for _ in range(2))

    load(network, dict(trained.state_dict()), tmp_path)

    assert torch.equal(network.classifier[1].weight, trained.classifier[1].weight)


# Tied weights and other state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


KERNEL = torch.arange(9.0).reshape(3, 3)


def test_one_name_of_a_tied_tensor_is_enough_and_two_must_agree(tmp_path: Path) -> None:
    network = Tied()

    load(network, {"second.weight": KERNEL}, tmp_path)

    assert torch.equal(network.first.weight, KERNEL)
    different = {"first.weight": KERNEL, "second.weight": KERNEL + 1}
    assert "first.weight and second.weight differ" in failure(Tied(), different, tmp_path)


@pytest.mark.parametrize("save", [save_weights, safetensors.torch.save_model])
def test_tied_weights_load_from_either_form_of_safetensors(
    tmp_path: Path, save: Callable[[nn.Module, Path], None]
) -> None:
    trained, path = Tied(), tmp_path / "weights.safetensors"
    save(trained, path)
    untied = nn.ModuleDict({"first": nn.Linear(3, 3, False), "second": nn.Linear(3, 3, False)})

    for network in (Tied(), untied):
        load_strictly(network, read_state_dict(path))
        assert_equal(network, trained.state_dict())


class Scaled(nn.Linear):
    """Keeps a number outside its tensors."""

    scale = 1.0

    def get_extra_state(self) -> dict[str, float]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_extra_state_is_loaded_where_the_network_has_it_and_ignored_elsewhere(
    tmp_path: Path,
) -> None:
    trained = Scaled(3, 2)
    trained.scale = 2.5
    with_state, without = Scaled(3, 2), nn.Linear(3, 2)

    load(with_state, trained.state_dict(), tmp_path)
    ignored, _ = load(without, trained.state_dict(), tmp_path)

    assert with_state.scale == 2.5
    assert ignored == ("_extra_state",)
    save_weights(with_state, tmp_path / "saved.safetensors")
    assert safetensors.torch.load_file(tmp_path / "saved.safetensors").keys() == {"weight", "bias"}
    with pytest.raises(ImportRefused, match=r"- _extra_state\n.*give the checkpoint of the train"):
        load_strictly(Scaled(3, 2), read_state_dict(tmp_path / "saved.safetensors"))


def test_lazy_layers_take_the_shape_of_their_weights(tmp_path: Path) -> None:
    network = nn.LazyLinear(2)

    load(network, {"weight": torch.ones(2, 5), "bias": torch.zeros(2)}, tmp_path)

    assert network(torch.ones(1, 5)).tolist() == [[5.0, 5.0]]


# Values


def test_weights_take_the_precision_of_the_network(tmp_path: Path) -> None:
    network = Net()
    tensors = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in GOOD.items()
        if name != "norm.num_batches_tracked"  # files from before torch 0.4 have none
    }

    load(network, tensors, tmp_path)

    bias = network.state_dict()["conv.bias"]
    assert (bias.dtype, bias.tolist()) == (torch.float32, [3.0, 4.0])


def test_an_attention_mask_of_minus_infinity_is_accepted(tmp_path: Path) -> None:
    network = Net()
    network.register_buffer("mask", torch.zeros(2, 2))
    mask = torch.full((2, 2), float("-inf")).triu(1)

    load(network, {**GOOD, "mask": mask}, tmp_path)

    assert torch.equal(network.state_dict()["mask"], mask)


NAN = torch.tensor([1.0, float("nan")])
HUGE = torch.tensor([1.0, 1e300], dtype=torch.float64)  # infinite in float32


@pytest.mark.filterwarnings("ignore:Validating the invariants of a newly allocated sparse")
@pytest.mark.filterwarnings("ignore:.*sparse tensor:UserWarning")
@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("norm.running_var", NAN, "1 of 2 values are NaN or infinite"),
        ("conv.bias", HUGE, "1 of 2 values are NaN or infinite"),
        ("conv.bias", torch.tensor([3, 4]), "dtype is torch.int64, the network has torch.float32"),
        ("conv.bias", torch.tensor([3.0 + 1j, 4.0]), "dtype is torch.complex64, the network has"),
        ("conv.bias", torch.tensor([3.0, 0.0]).to_sparse(), "is quantized, sparse or without data"),
        ("conv.bias", torch.empty(2, device="meta"), "is quantized, sparse or without data"),
    ],
)
def test_values_that_are_not_finite_or_not_of_the_networks_kind_are_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    assert f"{name}: {message}" in failure(Net(), {**GOOD, name: tensor}, tmp_path)


# What does not fit


def test_missing_unexpected_and_misshapen_names_are_listed_as_a_diff(tmp_path: Path) -> None:
    tensors = {name: value for name, value in GOOD.items() if name != "conv.bias"}
    tensors["norm.weight"] = torch.ones(3)
    tensors |= {f"more.{index}": torch.ones(1) for index in range(20)}

    message = failure(Net(), tensors, tmp_path)

    assert "1 missing, 20 unexpected, 1 of another shape" in message
    lines = message.splitlines()
    assert [*lines[1:3], *lines[10:12]] == [
        "  - conv.bias",
        "  + more.0",
        "  + … and 12 more",
        "  ! norm.weight: shape is (3,), expected (2,)",
    ]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"conv.bias": torch.ones(9)}, r"9 outputs, .*built with 2\. .*num_classes\": 9}'\.$"),
        ({"conv.weight": torch.ones(9, 9, 9, 9)}, "such as num_classes or image_size"),
        ({"aux.weight": torch.ones(9)}, r"Turn on the parts.*--weights-ignore 'aux\.\*'\.$"),
        ({"conv.lora_A.weight": torch.ones(9)}, r"--weights-ignore '\*\.lora_A\.\*'\.$"),
        ({f"ema.{name}": GOOD[name] for name in GOOD},
         r"add --weights-prefix 'ema\.' for these, or --weights-ignore 'ema\.\*' for those w"),
        ({"module.conv.bias": torch.ones(2)}, r"\+ module\.conv\.bias\nTurn on the parts"),
        ({"conv.bias": None}, "Take the network that these weights were trained in"),
    ],
)  # fmt: skip
def test_the_diff_ends_with_a_remedy(
    tmp_path: Path, change: dict[str, torch.Tensor | None], remedy: str
) -> None:
    tensors = {name: value for name, value in {**GOOD, **change}.items() if value is not None}

    assert re.search(remedy, failure(Net(), tensors, tmp_path))


def test_names_to_ignore_are_those_of_the_file(tmp_path: Path) -> None:
    content = {f"model.{name}": GOOD[name] for name in GOOD} | {"model.aux.weight": torch.ones(1)}

    message = failure(Net(), content, tmp_path)

    assert message.endswith(
        "  + model.aux.weight\nTurn on the parts of the network that these "
        "weights belong to; if its answers do not need them, add --weights-ignore '*.aux.*'."
    )
    load(Net(), content, tmp_path, ignore=("*.aux.*",))


def test_a_counter_missing_from_a_checkpoint_with_versions_is_reported(tmp_path: Path) -> None:
    # Files without versions may be older than this counter of torch 0.4.
    tensors = Net().state_dict()
    del tensors["norm.num_batches_tracked"]

    assert "- norm.num_batches_tracked" in failure(Net(), tensors, tmp_path)


def test_a_refusal_names_the_other_weights_of_the_file(tmp_path: Path) -> None:
    teacher = {f"blocks.{number}.weight": torch.ones(1) for number in range(7)}

    message = failure(Net(), {"model": GOOD, "teacher_ema": teacher}, tmp_path)

    assert message.endswith(
        "the weights at 'teacher_ema' are used; there are also model (--weights-key)"
    )
