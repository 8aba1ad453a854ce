"""Images unlike the golden ones, on which an exported graph may differ from its network.

An export that kept one branch of an `if`, an operator that breaks ties differently, or a range that
was folded into a constant is exact on photographs like the golden ones, and wrong on others.
"""

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torch import nn

from image_classifier.inference.engine import Batch, Logits
from importer.errors import ImportRefused
from importer.pixels_to_logits import run_reference
from preprocessing import DecodeLimits, Preprocessing, to_input
from preprocessing.errors import ImageRejected, PreprocessingBug

LONGEST_SIDE = 512


class ExtremeImages(NamedTuple):
    """Images that engines run besides the golden ones.

    Attributes:
        names: For messages.
        inputs: (n, H, W, C).
        logits: The network's, float32 (n, classes), perhaps not finite.
    """

    names: tuple[str, ...]
    inputs: Batch
    logits: Logits

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Whether the network's logits for each image are finite, (n,)."""
        return np.asarray(np.isfinite(self.logits).all(axis=1))


def run_on_extreme_images(
    golden_file: bytes, preprocessing: Preprocessing, network: nn.Module
) -> ExtremeImages | None:
    """Run the network on images made from a golden one.

    Images that the preprocessing or the network does not accept are left out.

    Args:
        golden_file: An image file that the preprocessing accepts.
        network: `PixelsToLogits` in evaluation mode.

    Returns:
        None if no image is left.
    """
    names, inputs, logits = [], [], []
    for name, image in _extreme_images(golden_file):
        file = io.BytesIO()
        image.save(file, "PNG")
        try:
            model_input = to_input(file.getvalue(), preprocessing, DecodeLimits())
            row = run_reference(network, model_input[np.newaxis], finite=False)
        except (ImageRejected, ImportRefused, PreprocessingBug):
            continue
        names.append(name)
        inputs.append(model_input)
        logits.append(row)
    if not names:
        return None
    return ExtremeImages(tuple(names), np.stack(inputs), np.concatenate(logits))


def _extreme_images(golden_file: bytes) -> Iterator[tuple[str, Image.Image]]:
    """Yield names and images; the first four are still photographs."""
    with Image.open(io.BytesIO(golden_file)) as opened:
        photo = opened.convert("RGB")
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    noise = np.random.default_rng(0).integers(0, 256, (photo.height, photo.width, 3), np.uint8)
    yield "a grey image", photo.convert("L").convert("RGB")
    yield "an inverted image", ImageOps.invert(photo)
    yield "a dark image", photo.point(lambda level: level // 8)
    yield "a bright image", photo.point(lambda level: 255 - (255 - level) // 8)
    yield "a black image", Image.new("RGB", photo.size, "black")
    yield "a white image", Image.new("RGB", photo.size, "white")
    yield "an image of one colour", Image.new("RGB", photo.size, (200, 30, 90))
    yield "noise", Image.fromarray(noise)
    yield "noise in black and white", Image.fromarray(np.where(noise < 128, 0, 255).astype("u1"))
