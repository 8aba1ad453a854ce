"""Weights into a network: all of them, in the right shape, or a list of what is wrong."""

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from importer.errors import ImportRefused
from importer.network import save_weights
from importer.weights import Checkpoint, load_strictly, read_state_dict


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)


def good() -> dict[str, torch.Tensor]:
    return {
        "conv.weight": torch.tensor([[[[1.0]], [[2.0]]]]).reshape(2, 1, 1, 1),
        "conv.bias": torch.tensor([3.0, 4.0]),
        "norm.weight": torch.tensor([5.0, 6.0]),
        "norm.bias": torch.tensor([7.0, 8.0]),
        "norm.running_mean": torch.tensor([9.0, 10.0]),
        "norm.running_var": torch.tensor([11.0, 12.0]),
        "norm.num_batches_tracked": torch.tensor(13),
    }


def checkpoint_of(tensors: object, tmp_path: Path, **where: str) -> Checkpoint:
    torch.save(tensors, tmp_path / "weights.pt")
    return read_state_dict(tmp_path / "weights.pt", **where)


def load(
    network: nn.Module, tensors: object, tmp_path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return load_strictly(network, checkpoint_of(tensors, tmp_path))


def failure(network: nn.Module, tensors: object, tmp_path: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        load(network, tensors, tmp_path)
    return str(caught.value)


def assert_good(network: nn.Module) -> None:
    assert {name: value.tolist() for name, value in network.state_dict().items()} == {
        name: value.tolist() for name, value in good().items()
    }


def test_every_value_arrives(tmp_path: Path) -> None:
    network = Net()

    told = load(network, good(), tmp_path)

    assert_good(network)
    assert told == ((), ())


# Names


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace("conv.", "conv._orig_mod."),
        lambda name: name.replace("norm.", "norm._checkpoint_wrapped_module._fsdp_wrapped_module."),
        lambda name: f"module.{name.replace('conv.', 'conv.module.')}",
    ],
)
def test_wrappers_anywhere_in_a_name_are_bridged(tmp_path: Path, wrapped: object) -> None:
    assert callable(wrapped)
    network = Net()

    load(network, {wrapped(name): value for name, value in good().items()}, tmp_path)

    assert_good(network)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_part_that_was_compiled_and_a_whole_that_was_parallel_load(tmp_path: Path) -> None:
    trained = nn.Sequential(OrderedDict(stem=torch.compile(nn.Linear(3, 4)), head=nn.Linear(4, 2)))
    names = nn.DataParallel(trained).state_dict().keys()
    assert "module.stem._orig_mod.weight" in names
    network = nn.Sequential(OrderedDict(stem=nn.Linear(3, 4), head=nn.Linear(4, 2)))

    load(network, nn.DataParallel(trained).state_dict(), tmp_path)

    image = torch.arange(3.0)[None]
    assert torch.equal(network(image), trained.head(trained.stem._orig_mod(image)))


def test_a_network_with_wrappers_of_its_own_takes_weights_without_them(tmp_path: Path) -> None:
    network = nn.DataParallel(Net())

    load(network, good(), tmp_path)

    assert_good(network.module)


@pytest.mark.parametrize("prefix", ["model.", "classifier.backbone.", "model._orig_mod."])
def test_a_prefix_that_all_names_share_is_cut_off_and_named(tmp_path: Path, prefix: str) -> None:
    network = Net()

    _, notes = load(network, {f"{prefix}{name}": item for name, item in good().items()}, tmp_path)

    assert_good(network)
    plain = prefix.replace("_orig_mod.", "")
    assert notes == (f"all names of the weights start with {plain!r}, which was cut off",)


def test_weights_without_the_prefix_of_a_wrapper_class_load_and_the_prefix_is_named(
    tmp_path: Path,
) -> None:
    network = nn.ModuleDict({"model": Net()})

    _, notes = load(network, good(), tmp_path)

    assert_good(network["model"])
    assert notes == ("'model.' was put in front of all names of the weights",)


def test_weights_behind_the_prefix_of_some_names_are_pointed_out(tmp_path: Path) -> None:
    content = {f"encoder.{name}": value for name, value in good().items()}
    content["criterion.weight"] = torch.ones(2)

    message = failure(Net(), content, tmp_path)

    assert "take them with --weights-prefix encoder." in message
    load_strictly(Net(), checkpoint_of(content, tmp_path, prefix="encoder."))


def test_tensors_of_known_tools_are_ignored_and_listed(tmp_path: Path) -> None:
    counted = {"total_ops": torch.zeros(1), "conv.total_params": torch.ones(1),
               "n_averaged": torch.tensor(2)}  # fmt: skip
    network = Net()

    ignored, notes = load(network, good() | counted, tmp_path)

    assert_good(network)
    assert ignored == tuple(counted)
    assert notes == (
        "3 entries that no answer depends on were ignored (n_averaged, total_ops, total_params)",
    )


# Tied weights and other state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


KERNEL = torch.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize("kept", ["first.weight", "second.weight"])
def test_a_tied_tensor_may_be_there_once(tmp_path: Path, kept: str) -> None:
    network = Tied()

    load(network, {kept: KERNEL}, tmp_path)

    assert torch.equal(network.first.weight, KERNEL)
    assert network.second.weight is network.first.weight


def test_the_file_that_our_own_advice_makes_of_tied_weights_loads(tmp_path: Path) -> None:
    trained = Tied()
    safetensors.torch.save_model(trained, str(tmp_path / "weights.safetensors"))
    untied = nn.ModuleDict({"first": nn.Linear(3, 3, False), "second": nn.Linear(3, 3, False)})

    for network in (Tied(), untied):
        load_strictly(network, read_state_dict(tmp_path / "weights.safetensors"))
        for name, value in trained.state_dict().items():
            assert torch.equal(network.state_dict()[name], value)


def test_tied_names_with_different_values_are_refused(tmp_path: Path) -> None:
    content = {"first.weight": KERNEL, "second.weight": KERNEL + 1}

    assert "first.weight and second.weight differ" in failure(Tied(), content, tmp_path)


def test_a_tied_network_is_written_and_read_again(tmp_path: Path) -> None:
    trained, network = Tied(), Tied()
    save_weights(trained, tmp_path / "weights.safetensors")

    load_strictly(network, read_state_dict(tmp_path / "weights.safetensors"))

    assert torch.equal(network.second.weight, trained.second.weight)


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


# What does not fit


def test_missing_unexpected_and_misshapen_names_are_listed_like_a_diff(tmp_path: Path) -> None:
    tensors = good()
    del tensors["conv.bias"]
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
        ({"conv.bias": None}, "Take the network that these weights were trained in"),
    ],
)
def test_the_diff_ends_with_a_remedy(
    tmp_path: Path, change: dict[str, torch.Tensor | None], remedy: str
) -> None:
    tensors = {name: value for name, value in {**good(), **change}.items() if value is not None}

    with pytest.raises(ImportRefused, match=remedy):
        load(Net(), tensors, tmp_path)


def test_a_counter_lost_from_a_checkpoint_that_states_its_version_is_missed(tmp_path: Path) -> None:
    # Without a version the counter counts as older than counters, see the test below.
    tensors = Net().state_dict()
    del tensors["norm.num_batches_tracked"]

    assert "- norm.num_batches_tracked" in failure(Net(), tensors, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_that_of_the_network(tmp_path: Path, dtype: torch.dtype) -> None:
    network = Net()
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in good().items()
        if name != "norm.num_batches_tracked"  # files from before torch 0.4 have none
    }

    load(network, tensors, tmp_path)

    assert network.conv.bias.dtype == torch.float32
    assert network.conv.bias.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("name", ["norm.running_var", "conv.bias"])
@pytest.mark.parametrize("value", [float("nan"), 1e300])  # infinite in float32
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    tensors = good() | {name: torch.tensor([1.0, value], dtype=torch.float64)}

    assert f"{name}: 1 of 2 values are NaN or infinite" in failure(Net(), tensors, tmp_path)


def test_an_attention_mask_of_minus_infinity_is_no_damage(tmp_path: Path) -> None:
    network = Net()
    network.register_buffer("mask", torch.zeros(2, 2))
    mask = torch.full((2, 2), float("-inf")).triu(1)

    load(network, {**good(), "mask": mask}, tmp_path)

    assert torch.equal(network.mask, mask)


@pytest.mark.parametrize(
    "tensor", [torch.tensor([3, 4]), torch.tensor([3.0 + 1j, 4.0]), torch.tensor([True, False])]
)
def test_another_kind_of_number_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    message = failure(Net(), {**good(), "conv.bias": tensor}, tmp_path)

    assert f"conv.bias: dtype is {tensor.dtype}, the network has torch.float32" in message


@pytest.mark.filterwarnings("ignore:Validating the invariants of a newly allocated sparse")
@pytest.mark.filterwarnings("ignore:.*sparse tensor:UserWarning")
def test_tensors_without_dense_data_are_refused(tmp_path: Path) -> None:
    sparse = torch.tensor([3.0, 0.0]).to_sparse()
    meta = torch.empty(2, device="meta")

    for tensor in (sparse, meta):
        message = failure(Net(), {**good(), "conv.bias": tensor}, tmp_path)
        assert "quantized, sparse or without data" in message


# Names of older code


def test_the_names_of_torchvisions_published_files_load(tmp_path: Path) -> None:
    import torchvision.models

    vit = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1}
    vit |= {"hidden_dim": 4, "mlp_dim": 8, "num_classes": 3}
    dense = {"growth_rate": 4, "block_config": (1, 1), "num_init_features": 4, "num_classes": 3}
    for build, changes in (
        (lambda: torchvision.models.VisionTransformer(**vit),
         {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}),
        (lambda: torchvision.models.DenseNet(**dense),
         {"norm1.": "norm.1.", "conv2.": "conv.2."}),
    ):  # fmt: skip
        trained, network = build(), build()
        older: dict[str, torch.Tensor] = dict(trained.state_dict())
        for name, before in changes.items():
            assert any(name in own for own in older)
            older = {own.replace(name, before): item for own, item in older.items()}

        load(network, older, tmp_path)

        for own, value in trained.state_dict().items():
            assert torch.equal(network.state_dict()[own], value), own


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
