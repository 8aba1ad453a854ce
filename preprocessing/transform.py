"""Image → input according to a spec: resize, centre crop, uint8 array."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from preprocessing.decode import OnStep, decode_image, ignore_step
from preprocessing.input_spec import InputSpec
from preprocessing.limits import DecodeLimits, check_resized_size
from preprocessing.resample import resize_as_tensor
from preprocessing.spec import DecodeRules, PreprocessingSpec
from preprocessing.user_class import Preprocessing


def to_input(
    data: bytes,
    preprocessing: Preprocessing,
    limits: DecodeLimits,
    on_step: OnStep = ignore_step,
) -> np.ndarray:
    """Decode a file and preprocess it.

    Returns:
        Array of the shape and dtype in `preprocessing.input_spec`, C-contiguous.

    Raises:
        ImageRejected: As for `decode_image`.
        PreprocessingBug: A user's class failed, or its result differs from its declaration.
    """
    image = decode_image(data, preprocessing.decode, limits, on_step)
    if isinstance(preprocessing, SpecPreprocessing):
        check_resized_size(image.size, preprocessing.resized_size(image.size), limits)
        return preprocessing.to_input(image, on_step)
    return preprocessing.to_input(image)


class SpecPreprocessing:
    """Built-in preprocessing by a `PreprocessingSpec`, bit-equal to torchvision.

    Stateless after construction; threads may share it.
    """

    def __init__(self, spec: PreprocessingSpec) -> None:
        self.spec = spec
        self.decode: DecodeRules = spec.decode
        self.input_spec = InputSpec(
            shape=spec.input_shape, dtype="uint8", mean=spec.mean, std=spec.std
        )

    def to_input(self, image: Image.Image, on_step: OnStep = ignore_step) -> npt.NDArray[np.uint8]:
        """Resize and crop.

        Args:
            image: 8-bit, of mode `decode.mode`, any size.
            on_step: Receives the image after each step.

        Returns:
            uint8 array of shape (H, W, C), C-contiguous, channels in RGB order.
        """
        image = self._resize(image)
        on_step("resize", image)
        height, width, _ = self.input_spec.shape
        if image.size != (width, height):
            # Pillow fills the area outside the image with black.
            box = centre_crop_box(image.size, (width, height), self.spec.crop_rounding)
            image = image.crop(box)
        on_step("crop", image)
        return np.asarray(image).reshape(self.input_spec.shape)

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) after the resize of an image of (width, height)."""
        resize = self.spec.resize
        if resize is None:
            return size
        if isinstance(resize.size, tuple):
            height, width = resize.size
            return width, height
        if resize.mode == "exact":
            return resize.size, resize.size
        return shorter_side_size(size, resize.size, resize.max_size)

    def _resize(self, image: Image.Image) -> Image.Image:
        resize = self.spec.resize
        size = self.resized_size(image.size)
        if resize is None or size == image.size:
            return image
        if resize.backend == "pil":
            return image.resize(size, Image.Resampling[resize.interpolation.upper()])
        pixels = np.asarray(image)
        return Image.fromarray(
            resize_as_tensor(pixels, size, resize.interpolation, antialias=resize.antialias)
        )


def shorter_side_size(
    size: tuple[int, int], side: int, max_size: int | None = None
) -> tuple[int, int]:
    """Return the (width, height) after the shorter side is resized to `side` pixels.

    Equal to torchvision's `_compute_resized_output_size` (transforms/functional.py, 0.29): the
    longer side is truncated. If it would exceed `max_size`, both sides shrink further; the
    shorter side of a very long image can become 0.
    """
    width, height = size
    short, long = side, int(side * max(size) / min(size))
    if max_size is not None and long > max_size:
        short, long = int(max_size * short / long), max_size
    return (short, long) if width <= height else (long, short)


def centre_crop_box(
    size: tuple[int, int], crop: tuple[int, int], rounding: str = "even"
) -> tuple[int, int, int, int]:
    """Return the box (left, upper, right, lower) of a centre crop, given two (width, height).

    The box extends beyond the image if the crop is larger. Equal to torchvision's `center_crop`
    (transforms/functional.py, 0.29): inside the image halves are rounded to even, or `rounding`
    "down"; in the padding they are truncated.
    """
    begin = round if rounding == "even" else int
    left, upper = (
        -((target - length) // 2) if target > length else begin((length - target) / 2)
        for length, target in zip(size, crop, strict=True)
    )
    return left, upper, left + crop[0], upper + crop[1]
