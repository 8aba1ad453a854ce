"""Weights into a network: all of them, in the right shape, or a list of what is wrong."""

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
    network: nn.Module, tensors: object, folder: Path, **where: str
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


# Names


def cut(prefix: str) -> str:
    return f"all names of the weights start with {prefix!r}, which was cut off"


@pytest.mark.parametrize(
    ("rename", "note"),
    [
        (lambda name: name, None),
        (lambda name: name.replace("norm.", "norm._checkpoint_wrapped_module."), None),
        (lambda name: f"module.{name.replace('conv.', 'conv._fsdp_wrapped_module.')}", None),
        (lambda name: f"classifier.backbone.{name}", cut("classifier.backbone.")),
        (lambda name: f"model._orig_mod.{name}", cut("model.")),
    ],
)
def test_wrappers_anywhere_in_a_name_and_a_shared_prefix_are_bridged(
    tmp_path: Path, rename: Callable[[str], str], note: str | None
) -> None:
    network = Net()

    ignored, notes = load(network, {rename(name): value for name, value in GOOD.items()}, tmp_path)

    assert_equal(network, GOOD)
    assert (ignored, notes) == ((), (note,) if note else ())


class Migrating(nn.Linear):
    """Takes weights of its first version for others than they are now."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *more: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = -state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, metadata, *more)


@pytest.mark.parametrize("prefix", ["", "module.", "ema."])
def test_the_versions_of_modules_are_found_behind_a_prefix(tmp_path: Path, prefix: str) -> None:
    network, built = nn.Sequential(Migrating(2, 1)), nn.Sequential(Migrating(2, 1))
    outer = nn.ModuleDict({prefix[:-1]: network}) if prefix else network

    load(built, outer.state_dict(), tmp_path, prefix=prefix * (prefix == "ema."))

    assert_equal(built, network.state_dict())


def test_a_module_of_ones_own_may_be_called_as_a_wrapper_is(tmp_path: Path) -> None:
    network = nn.ModuleDict(
        {"module": nn.ModuleDict({"fc": nn.Linear(2, 2)}), "fc": nn.Linear(2, 2)}
    )
    given = {name: torch.randn(value.shape) for name, value in network.state_dict().items()}

    load(network, given, tmp_path)

    assert_equal(network, given)


def test_weights_without_the_prefix_of_a_wrapper_class_load_and_the_prefix_is_named(
    tmp_path: Path,
) -> None:
    parallel, wrapped = nn.DataParallel(Net()), nn.ModuleDict({"model": Net()})

    load(parallel, GOOD, tmp_path)
    _, notes = load(wrapped, GOOD, tmp_path)

    assert_equal(parallel.module, GOOD)
    assert_equal(wrapped["model"], GOOD)
    assert notes == ("'model.' was put in front of all names of the weights",)


def test_weights_behind_the_prefix_of_some_names_are_pointed_out(tmp_path: Path) -> None:
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


def test_tensors_of_known_tools_are_ignored_and_listed(tmp_path: Path) -> None:
    counted = {"total_ops": torch.zeros(1), "conv.total_params": torch.ones(1),
               "n_averaged": torch.tensor(2)}  # fmt: skip
    network = Net()

    ignored, notes = load(network, GOOD | counted, tmp_path)

    assert_equal(network, GOOD)
    assert ignored == tuple(counted)
    assert notes == (
        "3 entries that no answer depends on were ignored (n_averaged, total_ops, total_params)",
    )


# torchvision's published files have names of older code


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


def test_an_mnasnet_loads_with_and_without_versions(tmp_path: Path) -> None:
    import torchvision.models

    # Its own migration refuses a file whose version it does not know.
    trained, network = (torchvision.models.mnasnet0_5(num_classes=3) for _ in range(2))

    for content in (
        trained.state_dict(),
        dict(trained.state_dict()),  # without versions
        nn.ModuleDict({"model": trained}).state_dict(),
    ):
        nn.init.zeros_(network.classifier[1].weight)
        load(network, content, tmp_path)
        assert torch.equal(network.classifier[1].weight, trained.classifier[1].weight)


# Tied weights and other state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


KERNEL = torch.arange(9.0).reshape(3, 3)


def test_a_tied_tensor_may_be_there_once(tmp_path: Path) -> None:
    network = Tied()

    load(network, {"second.weight": KERNEL}, tmp_path)

    assert torch.equal(network.first.weight, KERNEL)
    assert network.second.weight is network.first.weight
    different = {"first.weight": KERNEL, "second.weight": KERNEL + 1}
    assert "first.weight and second.weight differ" in failure(Tied(), different, tmp_path)


@pytest.mark.parametrize("save", [save_weights, safetensors.torch.save_model])
def test_tied_weights_load_as_we_and_as_our_advice_save_them(
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


def test_extra_state_reaches_a_network_that_has_it_and_is_ignored_by_one_without(
    tmp_path: Path,
) -> None:
    trained = Scaled(3, 2)
    trained.scale = 2.5
    with_state, without = Scaled(3, 2), nn.Linear(3, 2)

    load(with_state, trained.state_dict(), tmp_path)
    ignored, _ = load(without, trained.state_dict(), tmp_path)

    assert with_state.scale == 2.5
    assert torch.equal(without.weight, trained.weight)
    assert ignored == ("_extra_state",)
    save_weights(with_state, tmp_path / "saved.safetensors")
    assert safetensors.torch.load_file(tmp_path / "saved.safetensors").keys() == {"weight", "bias"}


def test_lazy_layers_take_the_shape_of_their_weights(tmp_path: Path) -> None:
    network = nn.LazyLinear(2)

    load(network, {"weight": torch.ones(2, 5), "bias": torch.zeros(2)}, tmp_path)

    assert network(torch.ones(1, 5)).tolist() == [[5.0, 5.0]]


# Values


def test_another_precision_becomes_that_of_the_network(tmp_path: Path) -> None:
    network = Net()
    tensors = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in GOOD.items()
        if name != "norm.num_batches_tracked"  # files from before torch 0.4 have none
    }

    load(network, tensors, tmp_path)

    bias = network.state_dict()["conv.bias"]
    assert (bias.dtype, bias.tolist()) == (torch.float32, [3.0, 4.0])


def test_an_attention_mask_of_minus_infinity_is_no_damage(tmp_path: Path) -> None:
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
def test_values_that_are_no_finite_numbers_of_the_networks_kind_are_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    assert f"{name}: {message}" in failure(Net(), {**GOOD, name: tensor}, tmp_path)


# What does not fit


def test_missing_unexpected_and_misshapen_names_are_listed_like_a_diff(tmp_path: Path) -> None:
    tensors = {name: value for name, value in GOOD.items() if name != "conv.bias"}
    tensors["head.weight"] = torch.ones(1)
    tensors["norm.weight"] = torch.ones(3)
    tensors["conv.weight"] = torch.ones(1, 2, 1, 1)
    tensors |= {f"more.{index}": torch.ones(1) for index in range(20)}

    message = failure(Net(), tensors, tmp_path)

    assert "1 missing, 21 unexpected, 2 of another shape" in message
    lines = message.splitlines()
    assert [*lines[1:3], *lines[10:13]] == [
        "  - conv.bias",
        "  + head.weight",
        "  + … and 13 more",
        "  ! conv.weight: shape is (1, 2, 1, 1), expected (2, 1, 1, 1)",
        "  ! norm.weight: shape is (3,), expected (2,)",
    ]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"conv.bias": torch.ones(9)}, r"9 outputs, .*built with 2\. .*num_classes\": 9}'\.$"),
        ({"conv.weight": torch.ones(9, 9, 9, 9)}, "such as num_classes or image_size"),
        ({"aux.weight": torch.ones(9)}, r"Turn on the parts.*--weights-ignore 'aux\.\*'\.$"),
        ({"conv.lora_A.weight": torch.ones(9)}, r"--weights-ignore '\*\.lora_A\.\*'\.$"),
        ({"module.conv.bias": torch.ones(2)}, r"\+ module\.conv\.bias\nTurn on the parts"),
        ({"conv.bias": None}, "Take the network that these weights were trained in"),
    ],
)
def test_the_diff_ends_with_a_remedy(
    tmp_path: Path, change: dict[str, torch.Tensor | None], remedy: str
) -> None:
    tensors = {name: value for name, value in {**GOOD, **change}.items() if value is not None}

    with pytest.raises(ImportRefused, match=remedy):
        load(Net(), tensors, tmp_path)


def test_a_counter_lost_from_a_checkpoint_that_states_its_version_is_missed(tmp_path: Path) -> None:
    # Without a version it would count as older than the counters of torch 0.4.
    tensors = Net().state_dict()
    del tensors["norm.num_batches_tracked"]

    assert "- norm.num_batches_tracked" in failure(Net(), tensors, tmp_path)
