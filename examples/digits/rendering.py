"""Drawing of an 8×8 digit as a picture of ordinary size."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

INK_MAX = 16  # of the data set


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Position of the digit on the paper.

    Attributes:
        width: Width of the picture, in pixels.
        height: Height of the picture, in pixels.
        digit_width: Width of the upright digit's box, in pixels.
        digit_height: Height of the upright digit's box, in pixels.
        left: Share of the free width to the left of the digit, in [0, 1].
        top: Share of the free height above the digit, in [0, 1].
        angle: Counter-clockwise rotation of the digit, in degrees.
    """

    width: int
    height: int
    digit_width: int
    digit_height: int
    left: float = 0.5
    top: float = 0.5
    angle: float = 0.0


def ink_mask(digit: npt.NDArray[np.uint8], layout: Layout) -> Image.Image:
    """Return the amount of ink on each pixel.

    Args:
        digit: (8, 8) in [0, 16].
        layout: Size of the picture and position of the digit.

    Returns:
        Mode L: 0 is bare paper, 255 is full ink.
    """
    cells = Image.fromarray(np.rint(digit * (255 / INK_MAX)).astype(np.uint8))
    size = (layout.digit_width, layout.digit_height)
    ink = cells.resize(size, Image.Resampling.BICUBIC)
    if layout.angle:
        ink = ink.rotate(layout.angle, Image.Resampling.BICUBIC, expand=True)
    mask = Image.new("L", (layout.width, layout.height), 0)
    x = round((layout.width - ink.width) * layout.left)
    y = round((layout.height - ink.height) * layout.top)
    mask.paste(ink, (x, y))
    return mask


def grey_picture(mask: Image.Image, *, ink: int, paper: int) -> Image.Image:
    """Draw the mask in one grey level on another.

    Args:
        mask: Mode L, from `ink_mask`.
        ink: Grey level of full ink, in [0, 255].
        paper: Grey level of bare paper, in [0, 255].

    Returns:
        Mode L, of the same size.
    """
    levels = [round(paper + (ink - paper) * share / 255) for share in range(256)]
    return mask.point(levels)


def upright_layout(width: int, height: int) -> Layout:
    """Return a digit of 7/10 of the shorter side, a little left of and below the centre."""
    side = round(min(width, height) * 0.7)
    return Layout(
        width=width, height=height, digit_width=side, digit_height=side, left=0.4, top=0.6
    )


def random_layout(generator: np.random.Generator) -> Layout:
    """Return a digit of 24 to 72 pixels, slightly shifted, rotated and stretched."""
    width, height = (
        round(side) for side in generator.uniform(24, 72) * generator.uniform(0.9, 1.1, 2)
    )
    margins = generator.uniform(1.3, 2.0, 2)
    left, top = generator.uniform(0.2, 0.8, 2)
    return Layout(
        width=round(width * margins[0]),
        height=round(height * margins[1]),
        digit_width=width,
        digit_height=height,
        left=left,
        top=top,
        angle=generator.uniform(-12, 12),
    )
