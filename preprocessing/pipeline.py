"""File bytes → input, checked against what the preprocessing declares."""

import numpy as np
from PIL import Image

from preprocessing.decode import decode_image
from preprocessing.errors import ImageRejected, ImageTooLarge, PreprocessingBug
from preprocessing.interface import Preprocessing
from preprocessing.rules import DecodeLimits
from preprocessing.transform import SpecPreprocessing


def to_input(data: bytes, preprocessing: Preprocessing, limits: DecodeLimits) -> np.ndarray:
    """Decode a file and preprocess it.

    Returns:
        Array of `preprocessing.input_shape` and `preprocessing.input_dtype`, C-contiguous.

    Raises:
        ImageRejected: What is wrong with the file, as for `decode_image`.
        PreprocessingBug: The class failed or returned something else than it declares.
    """
    image = decode_image(data, preprocessing.decode, limits)
    check_resized_size(image.size, preprocessing, limits)
    return image_to_input(image, preprocessing)


def check_resized_size(
    size: tuple[int, int], preprocessing: Preprocessing, limits: DecodeLimits
) -> None:
    """Check the size a picture of (width, height) would have after the resize of a spec.

    A thin picture within the pixel limit can become a giant one: 10×63498 pixels whose
    shorter side becomes 256 are 416 million.

    Raises:
        ImageTooLarge: More than `limits.max_resized_pixels`, or a side of 0 pixels.
    """
    if not isinstance(preprocessing, SpecPreprocessing):
        return
    width, height = preprocessing.resized_size(size)
    if width * height > limits.max_resized_pixels or 0 in (width, height):
        raise ImageTooLarge(
            f"the image of {size[0]}×{size[1]} would be resized to {width}×{height}, "
            f"the limit is {limits.max_resized_pixels} pixels"
        )


def image_to_input(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Preprocess a decoded image and hold the class to its declaration."""
    name = type(preprocessing).__name__
    # A user's code can raise anything; only what it raises for the client is the client's.
    try:
        array = preprocessing.to_input(image)
    except ImageRejected:
        raise
    except Exception as error:
        raise PreprocessingBug(
            f"{name}.to_input raised {type(error).__name__} on a {image.size[0]}×{image.size[1]} "
            f"{image.mode} image: {error}"
        ) from error
    expected = (tuple(preprocessing.input_shape), preprocessing.input_dtype)
    found = (np.shape(array), getattr(array, "dtype", type(array).__name__))
    if not isinstance(array, np.ndarray) or found != expected:
        raise PreprocessingBug(
            f"{name}.to_input returned {found[1]} of shape {found[0]}, "
            f"the class declares {expected[1]} of shape {expected[0]}"
        )
    return np.ascontiguousarray(array)
