"""A convolutional network that reads one handwritten digit.

Three blocks of convolution, batch normalisation, ReLU and 2×2 max pooling, then one linear layer:
the plain textbook form, 33,658 parameters. The whole definition is in this file.
"""

import torch
from torch import nn

CLASSES = 10


class DigitsNetwork(nn.Module):
    """Ten logits from one 32×32 grey image."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = convolution_block(1, 16)
        self.block2 = convolution_block(16, 32)
        self.block3 = convolution_block(32, 64)
        self.dropout = nn.Dropout(0.3)
        self.linear = nn.Linear(64 * 4 * 4, CLASSES)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Score a batch.

        Args:
            batch: float32 (n, 1, 32, 32), normalised with the mean and std of the preprocessing.

        Returns:
            float32 logits (n, 10); column d belongs to digit d.
        """
        features = self.block1(batch)  # (n, 16, 16, 16)
        features = self.block2(features)  # (n, 32, 8, 8)
        features = self.block3(features)  # (n, 64, 4, 4)
        features = self.dropout(features.flatten(1))  # (n, 1024)
        logits: torch.Tensor = self.linear(features)  # (n, 10)
        return logits


def convolution_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """(n, in_channels, H, W) to (n, out_channels, H / 2, W / 2)."""
    return nn.Sequential(
        # No bias: the batch normalisation that follows has its own.
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def build() -> nn.Module:
    """The network without its weights, as the importer calls it."""
    return DigitsNetwork()
