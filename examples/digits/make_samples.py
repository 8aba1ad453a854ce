"""Held-out digits as ordinary picture files: `python -m examples.digits.make_samples`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from examples.digits.dataset import held_out_digits
from examples.digits.rendering import grey_picture, ink_mask, upright_layout

INK, PAPER = (20, 40, 110), (250, 244, 230)  # RGB: blue ink on cream paper
GREY_INK, GREY_PAPER = 30, 245
GREY16_INK, GREY16_PAPER = 6_000, 60_000  # of 65,535

# EXIF orientation: how the stored pixels are turned away from upright.
STORED_TURNED = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


# KINDS[digit][k] describes the file of the k-th held-out picture of that digit: format, Pillow mode
# of the stored picture, width and height of the upright picture in pixels, and EXIF orientation.
# With an orientation other than 1 the pixels are stored turned; only digits that cannot be read
# when turned this way have one.
KINDS = (
    (("png", "L", 28, 28, 1), ("jpg", "L", 640, 480, 1), ("png", "RGBA", 96, 160, 1)),
    (("png", "RGB", 64, 64, 1), ("bmp", "RGB", 60, 80, 1), ("jpg", "RGB", 300, 400, 1)),
    (("jpg", "RGB", 320, 240, 6), ("png", "RGBA", 200, 100, 1), ("png", "LA", 80, 80, 1)),
    (("png", "RGBA", 128, 128, 1), ("jpg", "RGB", 240, 320, 6), ("webp", "RGBA", 240, 180, 1)),
    (("png", "P", 100, 100, 1), ("png", "L", 33, 57, 1), ("png", "RGB", 44, 36, 1)),
    (("jpg", "L", 300, 200, 8), ("jpg", "RGB", 160, 160, 8), ("gif", "P", 64, 64, 1)),
    (("jpg", "RGB", 480, 640, 3), ("png", "P", 256, 256, 1), ("jpg", "L", 320, 200, 8)),
    (("png", "I;16", 160, 120, 1), ("jpg", "L", 500, 375, 3), ("jpg", "RGB", 360, 640, 6)),
    (("webp", "RGB", 400, 300, 1), ("png", "RGB", 72, 48, 1), ("jpg", "RGB", 600, 400, 1)),
    (("gif", "P", 90, 120, 1), ("png", "I;16", 200, 200, 1), ("jpg", "RGB", 200, 280, 3)),
)


def main(arguments: Sequence[str]) -> None:
    """Write the first three held-out digits of each label as `<digit>-<nn>.<extension>`."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits.make_samples", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "samples")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    digits = held_out_digits()
    for label, kinds in enumerate(KINDS):
        for number, kind in enumerate(kinds):
            extension, mode, width, height, orientation = kind
            digit = digits.images[digits.labels == label][number]
            mask = ink_mask(digit, upright_layout(width, height))
            path = folder / f"{label}-{number + 1:02}.{extension}"
            write_sample(picture(mask, mode), orientation, path)


def picture(mask: Image.Image, mode: str) -> Image.Image:
    """Draw ink on paper in a Pillow mode.

    Args:
        mask: Mode L, from `ink_mask`.
        mode: L, RGB, P, I;16, LA or RGBA. With alpha, the transparent paper has the colour of the
            ink, so that a reader that drops alpha sees a blank picture.
    """
    if mode in ("LA", "RGBA"):
        inked = Image.new("RGB", mask.size, INK).convert(mode.removesuffix("A"))
        inked.putalpha(mask)
        return inked
    if mode == "I;16":
        share = np.asarray(mask) / 255  # (H, W)
        levels = GREY16_PAPER + (GREY16_INK - GREY16_PAPER) * share
        return Image.fromarray(levels.astype(np.uint16))
    if mode == "L":
        return grey_picture(mask, ink=GREY_INK, paper=GREY_PAPER)
    paper = Image.new("RGB", mask.size, PAPER)
    paper.paste(INK, mask=mask)
    return paper.quantize(32) if mode == "P" else paper


def write_sample(upright: Image.Image, orientation: int, path: Path) -> None:
    """Write a picture in the format of the path's extension.

    Args:
        upright: The picture as a viewer shows it.
        orientation: EXIF orientation to store; 1 stores none.
        path: Path of the file.
    """
    if orientation == 1:
        upright.save(path)
        return
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright.transpose(STORED_TURNED[orientation]).save(path, exif=exif)


if __name__ == "__main__":
    main(sys.argv[1:])
