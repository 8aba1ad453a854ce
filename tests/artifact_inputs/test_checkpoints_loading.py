"""Weights into a network: all of them, in the right shape, or a list of what is wrong."""

from pathlib import Path

import pytest
import torch
from torch import nn

from image_classifier.artifact.format import ArtifactError
from importer.weights import Checkpoint, load_strictly, read_state_dict


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Net()


def good() -> dict[str, torch.Tensor]:
    return {
        "conv.weight": torch.tensor([[[[1.0]]], [[[2.0]]]]),
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


def failure(network: nn.Module, tensors: object, tmp_path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_strictly(network, checkpoint_of(tensors, tmp_path))
    return str(caught.value)


def test_every_value_arrives(tmp_path: Path) -> None:
    network = Net()

    load_strictly(network, checkpoint_of(good(), tmp_path))

    assert {name: value.tolist() for name, value in network.state_dict().items()} == {
        name: value.tolist() for name, value in good().items()
    }


def test_missing_unexpected_and_misshapen_names_are_listed_like_a_diff(tmp_path: Path) -> None:
    tensors = good()
    del tensors["conv.bias"]
    tensors["head.weight"] = torch.ones(1)
    tensors["norm.weight"] = torch.ones(3)
    tensors["conv.weight"] = torch.ones(1, 2, 1, 1)

    message = failure(Net(), tensors, tmp_path)

    assert "1 missing, 1 unexpected, 2 of another shape" in message
    assert message.splitlines()[1:5] == [
        "  - conv.bias",
        "  + head.weight",
        "  ! conv.weight: shape is (1, 2, 1, 1), expected (2, 1, 1, 1)",
        "  ! norm.weight: shape is (3,), expected (2,)",
    ]


def test_a_long_diff_is_cut_but_counts_all(tmp_path: Path) -> None:
    tensors = {**good(), **{f"extra.{index}": torch.ones(1) for index in range(20)}}

    message = failure(Net(), tensors, tmp_path)

    assert "0 missing, 20 unexpected, 0 of another shape" in message
    assert message.count("\n  + extra.") == 8
    assert "  + … and 12 more" in message


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"conv.bias": torch.ones(9)}, "such as num_classes"),
        ({"aux.weight": torch.ones(9)}, "Turn on the parts"),
        ({"conv.bias": None}, "Take the network that these weights were trained in"),
    ],
)
def test_the_diff_ends_with_a_remedy(
    tmp_path: Path, change: dict[str, torch.Tensor | None], remedy: str
) -> None:
    tensors = {name: value for name, value in {**good(), **change}.items() if value is not None}

    assert remedy in failure(Net(), tensors, tmp_path).splitlines()[-1]


def test_weights_hidden_behind_a_prefix_are_pointed_out(tmp_path: Path) -> None:
    content = {f"model.{name}": value for name, value in good().items()}
    content["criterion.weight"] = torch.ones(2)

    assert "take them with --weights-prefix model." in failure(Net(), content, tmp_path)
    load_strictly(Net(), checkpoint_of(content, tmp_path, prefix="model."))


def test_a_wrapper_that_the_network_has_itself_is_put_back(tmp_path: Path) -> None:
    content = {f"module.model.{name}": value for name, value in good().items()}
    network = Wrapped()

    load_strictly(network, checkpoint_of(content, tmp_path))

    assert network.model.conv.bias.tolist() == [3.0, 4.0]


def test_versions_follow_the_wrapper_that_is_put_back(tmp_path: Path) -> None:
    trained = nn.DataParallel(Wrapped())
    network = Wrapped()

    load_strictly(network, checkpoint_of(trained.state_dict(), tmp_path))

    assert torch.equal(network.model.conv.weight, trained.module.model.conv.weight)


@pytest.mark.parametrize(("network", "name"), [(Net, "norm"), (Wrapped, "model.norm")])
def test_a_counter_lost_from_a_checkpoint_that_states_its_version_is_missed(
    tmp_path: Path, network: type[nn.Module], name: str
) -> None:
    # Without a version the counter counts as older than counters, see the test below.
    tensors = nn.DataParallel(network()).state_dict()
    del tensors[f"module.{name}.num_batches_tracked"]

    assert f"- {name}.num_batches_tracked" in failure(network(), tensors, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_that_of_the_network(tmp_path: Path, dtype: torch.dtype) -> None:
    network = Net()
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in good().items()
    }

    load_strictly(network, checkpoint_of(tensors, tmp_path))

    assert network.conv.bias.dtype == torch.float32
    assert network.conv.bias.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    tensors = good()
    tensors["norm.running_var"][1] = value

    message = failure(Net(), tensors, tmp_path)

    assert "norm.running_var: 1 of 2 values are NaN or infinite" in message


def test_double_precision_beyond_the_range_of_the_network_is_refused(tmp_path: Path) -> None:
    tensors = {**good(), "conv.bias": torch.tensor([1e300, 0.0], dtype=torch.float64)}

    assert "conv.bias: 1 of 2 values are NaN or infinite in torch.float32" in failure(
        Net(), tensors, tmp_path
    )


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([3, 4]),
        torch.tensor([3.0 + 1j, 4.0]),
        torch.tensor([True, False]),
    ],
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


def test_an_expanded_tensor_of_absurd_size_costs_nothing(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(10**12)

    message = failure(Net(), {**good(), "conv.bias": huge, "other": huge}, tmp_path)

    assert "conv.bias: shape is (1000000000000,), expected (2,)" in message


def test_weights_from_before_batch_counters_load(tmp_path: Path) -> None:
    tensors = good()
    del tensors["norm.num_batches_tracked"]
    network = Net()

    load_strictly(network, checkpoint_of(tensors, tmp_path))

    assert network.norm.running_mean.tolist() == [9.0, 10.0]


def test_the_checkpoint_of_a_data_parallel_compiled_lightning_module_loads(tmp_path: Path) -> None:
    content = {
        "state_dict": {f"model._orig_mod.module.{name}": value for name, value in good().items()},
        "optimizer_states": [{"state": {}}],
        "pytorch-lightning_version": "2.5.0",
    }
    network = Net()

    load_strictly(network, checkpoint_of(content, tmp_path))

    assert network.norm.weight.tolist() == [5.0, 6.0]
