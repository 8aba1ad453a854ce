"""Proves that decoding large JPEGs at a reduced size changes no answer that counts."""

import numpy as np
import numpy.typing as npt
from torch import nn

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import Precision
from image_classifier.inference.certificate import Gates, certify
from image_classifier.inference.engine import Logits
from importer.errors import ImportRefused
from importer.materials import Materials
from importer.pixels_to_logits import reference_logits
from preprocessing import DecodeLimits, decode_image
from preprocessing.user_class import image_to_input

JUDGED_AS: Precision = "int8"
"""The gates of reduced precision apply: agreement of the top-1 and loss of accuracy."""


def certify_shrinking(
    materials: Materials, network: nn.Module, logits: Logits, gates: Gates
) -> Certificate | None:
    """Compare the golden images as they will be decoded with a full decode.

    Args:
        network: `PixelsToLogits` in evaluation mode.
        logits: The reference's answers to the golden images as they will be decoded.

    Returns:
        The certificate; None where the preprocessing decodes in full.

    Raises:
        ImportRefused: A gate fails, or no golden image is one that shrinks.
    """
    if materials.preprocessing_entry.decode.shrink_jpeg_to_side is None:
        return None
    inputs = _of_full_decode(materials)
    if np.array_equal(inputs, materials.inputs):
        raise ImportRefused(
            "preprocessing: shrink_jpeg_to_side is set and no golden image is a JPEG large enough "
            "to shrink; add such images, or leave shrink_jpeg_to_side out"
        )
    class_ids = tuple(image.label for image in materials.golden)
    full = reference_logits(network, inputs)
    certificate, failure = certify(logits, full, class_ids, JUDGED_AS, gates)
    if failure:
        raise ImportRefused(
            f"preprocessing: large JPEGs decoded at a reduced size: {failure}; raise "
            "shrink_jpeg_to_side or leave it out"
        )
    return certificate


def _of_full_decode(materials: Materials) -> npt.NDArray[np.generic]:
    rules = materials.preprocessing_entry.decode.model_copy(update={"shrink_jpeg_to_side": None})
    return np.stack(
        [
            image_to_input(decode_image(image.data, rules, DecodeLimits()), materials.preprocessing)
            for image in materials.golden
        ]
    )
