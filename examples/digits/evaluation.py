"""Evaluation of a trained digits network on the held-out digits."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from examples.digits.dataset import Digits
from examples.digits.preprocessing import DigitsPreprocessing
from examples.digits.rendering import grey_picture, ink_mask, upright_layout

PICTURE_SIZES = ((28, 28), (64, 48), (100, 160), (320, 240), (640, 480))  # (width, height)
INK, PAPER = 30, 245  # grey levels


def held_out_inputs(digits: Digits) -> npt.NDArray[np.uint8]:
    """Draw each digit upright as a grey picture, in the `PICTURE_SIZES` in turn, and preprocess it.

    Returns:
        uint8 (n, 32, 32, 1).
    """
    preprocessing = DigitsPreprocessing()
    inputs = []
    for position, digit in enumerate(digits.images):
        layout = upright_layout(*PICTURE_SIZES[position % len(PICTURE_SIZES)])
        picture = grey_picture(ink_mask(digit, layout), ink=INK, paper=PAPER)
        inputs.append(preprocessing.to_input(picture))
    return np.stack(inputs)


def normalised(inputs: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Normalise inputs as the exported graph does before the network.

    Args:
        inputs: uint8 (n, H, W, 1).

    Returns:
        float32 (n, 1, H, W).
    """
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1)
        for values in (DigitsPreprocessing.mean, DigitsPreprocessing.std)
    )
    batch = torch.from_numpy(inputs).permute(0, 3, 1, 2)  # (n, 1, H, W)
    return (batch.float() / 255 - mean) / std


def predicted_digits(network: nn.Module, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the digit with the highest logit for each input.

    Args:
        network: From `network.build`; it is set to evaluation mode.
        inputs: uint8 (n, 32, 32, 1).

    Returns:
        int64 (n,) in [0, 9].
    """
    network.eval()
    with torch.inference_mode():
        digits: npt.NDArray[np.int64] = network(normalised(inputs)).argmax(dim=1).numpy()
    return digits
