"""The network with its normalisation inside, and the reference: its logits in eager fp32."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from importer.errors import ImportRefused
from importer.network import run_network
from preprocessing import InputSpec


class PixelsToLogits(nn.Module):
    """The exported network: normalisation is inside, so no caller can forget or repeat it.

    The arithmetic is that of torchvision's ToTensor and Normalize, in the same order:
    x / 255, minus mean, divided by std, all in float32.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, input_spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.input_spec = input_spec
        self.normalises = input_spec.mean is not None
        if self.normalises:
            self.register_buffer("mean", torch.tensor(input_spec.mean).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(input_spec.std).view(1, -1, 1, 1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of (n, H, W, C), uint8 in [0, 255] or preprocessed float32."""
        logits: torch.Tensor = self.network(self.pixels(batch))
        return logits

    def pixels(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the network's input, (n, C, H, W)."""
        # In the order of a notebook's tensors: `view` in a network takes no other.
        pixels = batch.permute(0, 3, 1, 2).contiguous()
        if self.normalises:
            pixels = (pixels.to(torch.float32) / 255 - self.mean) / self.std
        return pixels


def run_reference(
    network: nn.Module,
    inputs: npt.NDArray[np.generic],
    sources: Path | None = None,
    *,
    finite: bool = True,
) -> npt.NDArray[np.float32]:
    """Run the research pipeline's network on one image at a time, in one thread.

    Repeated imports then compute the same bits: other batch sizes and thread counts order sums
    differently.

    Args:
        network: `PixelsToLogits` in evaluation mode.
        inputs: Shape (n, H, W, C).
        sources: Folder of the network's source, to name the line that raises.
        finite: Refuse NaN and infinity.

    Returns:
        float32, shape (n, classes).

    Raises:
        ImportRefused: The network does not return one (finite) row of logits per image.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Copies, because torch warns of read-only arrays, which images may be.
        rows = [
            run_network(network, torch.from_numpy(np.array(batch)), sources).numpy()
            for batch in np.split(inputs, len(inputs))
        ]
    finally:
        torch.set_num_threads(threads)
    logits = np.concatenate(rows)
    if finite and not np.isfinite(logits).all():
        raise ImportRefused(
            "network: its logits on the golden images contain NaN or infinity; "
            f"{remedy_of_infinity(logits)}"
        )
    return logits


def remedy_of_infinity(logits: npt.NDArray[np.floating]) -> str:
    """Return what to do about logits (n, classes) that are not finite."""
    masked = np.isneginf(logits).all(axis=0)
    if masked.any() and not masked.all() and np.isfinite(logits[:, ~masked]).all():
        return (
            "the network masks classes with -inf; mask them with a large negative number, such as "
            "-1e4"
        )
    return "check the weights and the preprocessing"
