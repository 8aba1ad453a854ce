"""What the exactness tests compare: normalised inputs, and inputs of shrunk JPEGs."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from image_classifier.artifact.manifest import InputSpec
from importer.pixels_to_logits import PixelsToLogits
from preprocessing import DecodeLimits, PreprocessingSpec, SpecPreprocessing, to_input

Array = np.ndarray[Any, np.dtype[Any]]


def normalised(image: Image.Image, spec: PreprocessingSpec) -> Array:
    """What a network sees of an image, float32 (C, H, W): normalised by what is exported."""
    preprocessing = SpecPreprocessing(spec)
    batch = torch.from_numpy(preprocessing.to_input(image)[None].copy())
    pixels: Array = PixelsToLogits(nn.Identity(), InputSpec.of(preprocessing))(batch)[0].numpy()
    return pixels


def shrink_difference(data: bytes, spec: PreprocessingSpec, limits: DecodeLimits) -> float:
    """Highest absolute difference to the input of a full decode, of 255; 0 if nothing shrinks."""
    full = spec.decode.model_copy(update={"shrink_jpeg_to_side": None})
    of_shrunk, of_full = (
        to_input(data, SpecPreprocessing(each), limits).astype(np.float64)
        for each in (spec, spec.model_copy(update={"decode": full}))
    )
    return float(np.abs(of_shrunk - of_full).max())
