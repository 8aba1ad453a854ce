"""What every preprocessing offers: the built-in one and a user's own class."""

from typing import Literal, Protocol

import numpy as np
from PIL import Image

from preprocessing.rules import DecodeRules


class Preprocessing(Protocol):
    """Turns one image into one model input. Called from several threads at once.

    Attributes:
        decode: How file bytes become the image.
        input_shape: (H, W, C) of the input.
        input_dtype: "uint8": the graph normalises. "float32": the class has normalised.
        mean: Means per channel on the [0, 1] scale, in channel order; None with float32.
        std: Standard deviations on the same scale; None with float32.
    """

    @property
    def decode(self) -> DecodeRules: ...  # noqa: D102  (Attributes above)

    @property
    def input_shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    @property
    def input_dtype(self) -> Literal["uint8", "float32"]: ...  # noqa: D102

    @property
    def mean(self) -> tuple[float, ...] | None: ...  # noqa: D102

    @property
    def std(self) -> tuple[float, ...] | None: ...  # noqa: D102

    def to_input(self, image: Image.Image) -> np.ndarray:
        """Convert a decoded image to an array of `input_shape` and `input_dtype`."""
        ...
