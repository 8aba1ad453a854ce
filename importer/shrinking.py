"""Certifies the decoding of large JPEGs at a reduced size."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import nn

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import Precision
from image_classifier.inference.certificate import Gates, GoldenAnswers, certify
from importer.errors import ImportRefused
from importer.golden_images import GoldenImage
from importer.pixels_to_logits import run_reference
from preprocessing import DecodeLimits, Preprocessing, decode_image

GATES_OF: Precision = "int8"
"""The gates of reduced precision apply: agreement of the top-1 and loss of accuracy."""


def certify_shrinking(
    preprocessing: Preprocessing,
    images: tuple[GoldenImage, ...],
    inputs: npt.NDArray[np.generic],
    network: nn.Module,
    truth: GoldenAnswers,
    gates: Gates,
) -> Certificate | None:
    """Compare the golden images, decoded as they will be served, with a full decode.

    Args:
        inputs: Made by the preprocessing, (n, H, W, C).
        network: `PixelsToLogits` in evaluation mode.
        truth: The reference's answers for `inputs`.

    Returns:
        The certificate; None if the preprocessing decodes in full.

    Raises:
        ImportRefused: A gate fails, or no golden image is large enough to shrink.
    """
    if preprocessing.decode.shrink_jpeg_to_side is None:
        return None
    rules = preprocessing.decode.model_copy(update={"shrink_jpeg_to_side": None})
    full_inputs = np.stack(
        [
            preprocessing.to_input(decode_image(image.data, rules, DecodeLimits()))
            for image in images
        ]
    )
    if np.array_equal(full_inputs, inputs):
        raise ImportRefused(
            "preprocessing: shrink_jpeg_to_side is set and no golden image is a JPEG large enough "
            "to shrink; add such images, or leave shrink_jpeg_to_side out"
        )
    full = replace(truth, logits=run_reference(network, full_inputs))
    certificate, failure = certify(truth.logits, full, GATES_OF, gates)
    if failure:
        raise ImportRefused(
            f"preprocessing: large JPEGs decoded at a reduced size: {failure}; raise "
            "shrink_jpeg_to_side or leave it out"
        )
    return certificate
