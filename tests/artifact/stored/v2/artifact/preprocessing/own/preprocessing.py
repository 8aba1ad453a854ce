"""The preprocessing the digits network was trained with: dark ink on light paper to 32×32."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from preprocessing import DecodeRules

SIDE = 32  # of the input, in pixels
DIGIT_SIDE = 26  # the longer side of the digit in it; the rest is margin
INK_THRESHOLD = 64  # of 255: fainter marks do not move the box around the digit


class DigitsPreprocessing:
    """From an upright grey picture to one input.

    Attributes:
        decode: How a file becomes the picture that `to_input` takes.
        input_shape: (H, W, C) of one input.
        input_dtype: Its dtype.
        mean: Of the training inputs scaled to [0, 1], one value per channel. The exported graph
            computes (input / 255 - mean) / std.
        std: Their standard deviation, on the same scale.
    """

    decode = DecodeRules(mode="L", exif_orientation=True, alpha="white")
    input_shape = (SIDE, SIDE, 1)
    input_dtype = "uint8"
    mean = (0.19,)
    std = (0.31,)

    def to_input(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Cut the digit out and centre it, white on black.

        Args:
            image: Mode L, any size, upright, the ink darker than the paper.

        Returns:
            uint8 (32, 32, 1): paper 0, ink up to 255. The aspect ratio of the digit is kept.
            An evenly white picture gives zeros.
        """
        ink = ImageOps.invert(ImageOps.autocontrast(image))
        canvas = Image.new("L", (SIDE, SIDE), 0)
        box = ink.point([255 * (level >= INK_THRESHOLD) for level in range(256)]).getbbox()
        if box is not None:
            digit = fitted(ink.crop(box))
            canvas.paste(digit, ((SIDE - digit.width) // 2, (SIDE - digit.height) // 2))
        return np.array(canvas)[:, :, np.newaxis]  # (H, W, 1)


def fitted(digit: Image.Image) -> Image.Image:
    """The picture scaled so that its longer side is `DIGIT_SIDE` pixels."""
    scale = DIGIT_SIDE / max(digit.size)
    width, height = (max(1, round(side * scale)) for side in digit.size)
    return digit.resize((width, height), Image.Resampling.BILINEAR)
