"""The network with its normalisation inside: batch of pixels in, logits out."""

import torch
from torch import nn

from artifact.manifest import PreprocessingEntry


class PixelsToLogits(nn.Module):
    """What is exported: no caller can forget or double the normalisation.

    The arithmetic is that of torchvision's ToTensor and Normalize, in the same order:
    x / 255, minus mean, divided by std, all in float32.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, signature: PreprocessingEntry) -> None:
        super().__init__()
        self.network = network
        self.signature = signature
        self.normalises = signature.mean is not None and signature.std is not None
        if signature.mean is not None and signature.std is not None:
            self.register_buffer("mean", torch.tensor(signature.mean).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(signature.std).view(1, -1, 1, 1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of a batch (n, H, W, C), uint8 in [0, 255] or ready float32."""
        pixels = batch.permute(0, 3, 1, 2)  # (n, C, H, W)
        if self.normalises:
            pixels = (pixels.to(torch.float32) / 255 - self.mean) / self.std
        logits: torch.Tensor = self.network(pixels)
        return logits
