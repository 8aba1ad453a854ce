"""Seeded networks without trained weights that still tell images apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks.peers.steps import to_input
from benchmarks.workload import Workload

SEED = 20261101
CLASSES = 1000
LOUD_CLASSES = 12
DIRECTIONS = 2
RESIDUAL_STRENGTH = 0.1

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""torchvision.transforms._presets.ImageClassification: what the eager peer and the graph use."""


class Normalised(nn.Module):
    """The network with its normalisation in front: uint8 (n, H, W, 3) in, logits out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 (n, H, W, 3) to float32 (n, classes)."""
        pixels = batch.permute(0, 3, 1, 2).float()  # (n, 3, H, W)
        logits: torch.Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def inputs_of(files: Sequence[str], workload: Workload) -> torch.Tensor:
    """Preprocessed files, uint8 (n, crop, crop, 3)."""
    return torch.from_numpy(
        np.stack([to_input(Path(file).read_bytes(), workload) for file in files])
    )


def seeded_network(architecture: str, inputs: torch.Tensor) -> nn.Module:
    """A torchvision network with random weights whose answers differ from image to image.

    Random weights alone name one class for every picture: swapped answers would pass. Batch
    norms take their statistics from the inputs, and the last layer spreads the two directions in
    which the features of the inputs differ most over 12 of the classes.

    Args:
        architecture: Function of `torchvision.models`.
        inputs: uint8 (n, H, W, 3), n > 2.
    """
    torch.manual_seed(SEED)
    network: nn.Module = getattr(torchvision.models, architecture)(weights=None)
    normalised = Normalised(network)
    with torch.no_grad():
        _calm(network)
        _take_statistics(normalised, inputs)
        _spread_classes(network, normalised, inputs)
    return normalised.eval()


def _calm(network: nn.Module) -> None:
    # 50 random layers at full strength amplify any rounding until fp32 and int8 name
    # different classes.
    for block in network.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck):
            block.bn3.weight.fill_(RESIDUAL_STRENGTH)


def _take_statistics(network: nn.Module, inputs: torch.Tensor) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    network.eval()
    for norm in norms:
        norm.momentum = None  # cumulative: the average over all batches
        norm.train()
    for batch in torch.split(inputs, 16) if norms else ():
        network(batch)
    network.eval()


def _spread_classes(network: nn.Module, normalised: nn.Module, inputs: torch.Tensor) -> None:
    name, last = [
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)
    ][-1]
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Identity())
    features = torch.cat([normalised(batch) for batch in torch.split(inputs, 16)])  # (n, features)
    setattr(parent, name.rpartition(".")[2], last)
    mean = features.mean(dim=0)
    _, _, directions = torch.linalg.svd(features - mean, full_matrices=False)
    axes = directions[:DIRECTIONS]  # (8, features)
    spread = ((features - mean) @ axes.T).std(dim=0)
    # A ring of 12 loud classes: the best is well ahead of the second for most images.
    angles = torch.arange(CLASSES) * (2 * torch.pi / LOUD_CLASSES)
    classes = 4 * torch.stack([angles.cos(), angles.sin()], dim=1)  # (classes, 2)
    classes[LOUD_CLASSES:] *= 0.5
    last.weight.copy_(classes @ (axes / spread[:, None]))
    last.bias.copy_(-last.weight @ mean)
