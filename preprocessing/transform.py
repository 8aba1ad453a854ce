"""Image → input, as a spec says: resize, centre crop, uint8 array."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from preprocessing.decode import Watch, decode_image, watch_nothing
from preprocessing.limits import DecodeLimits, check_resized_size
from preprocessing.resample import resize_as_tensor
from preprocessing.spec import DecodeRules, PreprocessingSpec
from preprocessing.user_class import Preprocessing, image_to_input

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def to_input(
    data: bytes,
    preprocessing: Preprocessing,
    limits: DecodeLimits,
    watch: Watch = watch_nothing,
) -> np.ndarray:
    """Decode a file and preprocess it.

    Returns:
        Array of `preprocessing.input_shape` and `preprocessing.input_dtype`, C-contiguous.

    Raises:
        ImageRejected: What is wrong with the file, as for `decode_image`.
        PreprocessingBug: A user's class failed or returned something else than it declares.
    """
    image = decode_image(data, preprocessing.decode, limits, watch)
    if isinstance(preprocessing, SpecPreprocessing):
        check_resized_size(image.size, preprocessing.resized_size(image.size), limits)
        return preprocessing.to_input(image, watch)
    return image_to_input(image, preprocessing)


class SpecPreprocessing:
    """The built-in preprocessing: what a `PreprocessingSpec` says, bit-equal to torchvision.

    Stateless after construction; threads may share it.
    """

    def __init__(self, spec: PreprocessingSpec) -> None:
        self.spec = spec
        self.decode: DecodeRules = spec.decode
        self.input_shape: tuple[int, int, int] = spec.input_shape
        self.input_dtype: Literal["uint8"] = "uint8"
        self.mean: tuple[float, ...] = spec.mean
        self.std: tuple[float, ...] = spec.std

    def to_input(self, image: Image.Image, watch: Watch = watch_nothing) -> npt.NDArray[np.uint8]:
        """Resize and crop.

        Args:
            image: 8-bit, of mode `decode.mode`, any size.

        Returns:
            uint8 array of shape (H, W, C), C-contiguous, channels in RGB order.
        """
        image = self.resize(image)
        watch("resize", image)
        image = self.crop(image)
        watch("crop", image)
        return np.asarray(image).reshape(self.input_shape)

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) of an image of (width, height) after the resize."""
        resize = self.spec.resize
        if resize is None:
            return size
        if isinstance(resize.size, int):
            if resize.mode == "shorter_side":
                return shorter_side_size(size, resize.size, resize.max_size)
            return resize.size, resize.size
        height, width = resize.size
        return width, height

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize an image; return it unchanged where it has its size already."""
        resize = self.spec.resize
        size = self.resized_size(image.size)
        if resize is None or size == image.size:
            return image
        if resize.backend == "pil":
            return image.resize(size, _FILTERS[resize.interpolation])
        pixels = np.asarray(image)
        return Image.fromarray(
            resize_as_tensor(pixels, size, resize.interpolation, antialias=resize.antialias)
        )

    def crop(self, image: Image.Image) -> Image.Image:
        """Crop the centre of a resized image; return it unchanged where it has its size already."""
        height, width, _ = self.input_shape
        if image.size == (width, height):
            return image
        box = centre_crop_box(image.size, (width, height))
        return image.crop(box)  # Pillow fills what lies outside with black


def shorter_side_size(
    size: tuple[int, int], side: int, max_size: int | None = None
) -> tuple[int, int]:
    """Compute the size after the shorter side became `side` pixels; the longer is truncated.

    Equal to torchvision's `_compute_resized_output_size` (transforms/functional.py, 0.29).

    Args:
        size: (width, height).
        side: Length of the shorter side after the resize.
        max_size: Highest length of the longer side; where it would be exceeded, the shorter
            side becomes less than `side`.

    Returns:
        (width, height); a side can be 0 where `max_size` meets a very long image.
    """
    width, height = size
    short, long = side, int(side * max(size) / min(size))
    if max_size is not None and long > max_size:
        short, long = int(max_size * short / long), max_size
    return (short, long) if width <= height else (long, short)


def centre_crop_box(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int, int, int]:
    """Compute the box (left, upper, right, lower) of a centre crop.

    It reaches outside the image where the crop is larger. Equal to torchvision's `center_crop`
    (transforms/functional.py, 0.29), whose two roundings differ: inside the image halves go to
    the even number, in the padding they are truncated.

    Args:
        size: (width, height) of the image.
        crop: (width, height) of the crop.
    """
    left, upper = (
        -((wanted - length) // 2) if wanted > length else round((length - wanted) / 2)
        for length, wanted in zip(size, crop, strict=True)
    )
    return left, upper, left + crop[0], upper + crop[1]
