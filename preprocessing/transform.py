"""Image → input, as a spec says: resize, centre crop, uint8 array."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from preprocessing.geometry import centre_crop_box, shorter_side_size
from preprocessing.resample import resize_as_tensor
from preprocessing.rules import DecodeRules
from preprocessing.spec import PreprocessingSpec

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after the resize of a picture of (width, height)."""
        resize = self.spec.resize
        if resize is None:
            return size
        if resize.mode == "shorter_side" and isinstance(resize.size, int):
            return shorter_side_size(size, resize.size, resize.max_size)
        if isinstance(resize.size, int):
            return resize.size, resize.size
        height, width = resize.size
        return width, height

    def to_input(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop.

        Args:
            image: 8-bit, of mode `decode.mode`, any size.

        Returns:
            uint8 array of shape (H, W, C), C-contiguous, channels in RGB order.
        """
        picture = image
        for _, step in self.steps(image):
            picture = step
        return self.as_input(picture)

    def as_input(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """Copy the picture after the last step into an array, uint8 (H, W, C)."""
        return np.asarray(picture).reshape(self.input_shape)

    def steps(self, image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
        """Yield (name, picture) after each step that changes the picture."""
        size = self.resized_size(image.size)
        if size != image.size:
            image = self._resized(image, size)
            yield "resize", image
        height, width, _ = self.input_shape
        box = centre_crop_box(image.size, (width, height))
        if box != (0, 0, *image.size):
            yield "crop", image.crop(box)  # Pillow fills what lies outside with black

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        resize = self.spec.resize
        if resize is None:
            return image
        if resize.backend == "tensor":
            pixels = np.asarray(image)
            return Image.fromarray(
                resize_as_tensor(pixels, size, resize.interpolation, antialias=resize.antialias)
            )
        return image.resize(size, _FILTERS[resize.interpolation])
