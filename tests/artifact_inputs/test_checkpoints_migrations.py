"""Checkpoints of older code: the names they use still find their place."""

from collections import OrderedDict
from pathlib import Path

import torch
import torchvision

from importer.weights import Checkpoint, load_strictly, read_state_dict


def checkpoint_of(tensors: object, tmp_path: Path) -> Checkpoint:
    torch.save(tensors, tmp_path / "weights.pt")
    return read_state_dict(tmp_path / "weights.pt")


def test_the_old_names_of_a_vision_transformer_load_with_and_without_versions(
    tmp_path: Path,
) -> None:
    small = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1}
    small |= {"hidden_dim": 4, "mlp_dim": 8, "num_classes": 3}
    trained, network = (torchvision.models.VisionTransformer(**small) for _ in range(2))
    # torchvision's published ViT weights call the two layers of an MLP linear_1 and linear_2.
    tensors = OrderedDict(
        (name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), value)
        for name, value in trained.state_dict().items()
    )
    assert sum(".linear_" in name for name in tensors) == 4

    load_strictly(network, checkpoint_of(tensors, tmp_path))

    for name, value in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_the_old_names_of_a_densenet_load(tmp_path: Path) -> None:
    small = {"growth_rate": 4, "block_config": (1, 1), "num_init_features": 4, "num_classes": 3}
    trained, network = (torchvision.models.DenseNet(**small) for _ in range(2))
    tensors = OrderedDict(
        (name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."), value)
        for name, value in trained.state_dict().items()
    )
    assert any("denselayer1.norm.1.running_var" in name for name in tensors)

    load_strictly(network, checkpoint_of(tensors, tmp_path))

    for name, value in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_an_mnasnet_loads_without_versions(tmp_path: Path) -> None:
    trained, network = (torchvision.models.mnasnet0_5(num_classes=3) for _ in range(2))

    load_strictly(network, checkpoint_of(dict(trained.state_dict()), tmp_path))

    assert torch.equal(network.classifier[1].weight, trained.classifier[1].weight)
