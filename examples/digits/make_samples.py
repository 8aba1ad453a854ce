"""Held-out digits as ordinary picture files: `python -m examples.digits.make_samples`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FileKind:
    """What a sample file is like.

    Attributes:
        extension: Names the file format.
        mode: Pillow's mode of the stored picture; P is a palette, A alpha, I;16 16-bit grey.
        width: Of the upright picture, in pixels.
        height: Of the upright picture, in pixels.
        orientation: EXIF orientation; other than 1, the pixels are stored turned.
    """

    extension: str
    mode: str
    width: int
    height: int
    orientation: int = 1


# KINDS[digit][k] is the kind of the k-th held-out picture of that digit. EXIF orientations
# stand at digits that no longer look like themselves when turned so.
KINDS = (
    (
        FileKind("png", "L", 28, 28),
        FileKind("jpg", "L", 640, 480),
        FileKind("png", "RGBA", 96, 160),
    ),
    (
        FileKind("png", "RGB", 64, 64),
        FileKind("bmp", "RGB", 60, 80),
        FileKind("jpg", "RGB", 300, 400),
    ),
    (
        FileKind("jpg", "RGB", 320, 240, 6),
        FileKind("png", "RGBA", 200, 100),
        FileKind("png", "LA", 80, 80),
    ),
    (
        FileKind("png", "RGBA", 128, 128),
        FileKind("jpg", "RGB", 240, 320, 6),
        FileKind("webp", "RGBA", 240, 180),
    ),
    (
        FileKind("png", "P", 100, 100),
        FileKind("png", "L", 33, 57),
        FileKind("png", "RGB", 44, 36),
    ),
    (
        FileKind("jpg", "L", 300, 200, 8),
        FileKind("jpg", "RGB", 160, 160, 8),
        FileKind("gif", "P", 64, 64),
    ),
    (
        FileKind("jpg", "RGB", 480, 640, 3),
        FileKind("png", "P", 256, 256),
        FileKind("jpg", "L", 320, 200, 8),
    ),
    (
        FileKind("png", "I;16", 160, 120),
        FileKind("jpg", "L", 500, 375, 3),
        FileKind("jpg", "RGB", 360, 640, 6),
    ),
    (
        FileKind("webp", "RGB", 400, 300),
        FileKind("png", "RGB", 72, 48),
        FileKind("jpg", "RGB", 600, 400),
    ),
    (
        FileKind("gif", "P", 90, 120),
        FileKind("png", "I;16", 200, 200),
        FileKind("jpg", "RGB", 200, 280, 3),
    ),
)


def main(arguments: Sequence[str]) -> None:
    """Write the first held-out pictures of each digit as `<digit>-<nn>.<extension>`."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits.make_samples", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "samples")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    digits = held_out_digits()
    for label, kinds in enumerate(KINDS):
        first_of_label = digits.images[digits.labels == label][: len(kinds)]
        for number, (digit, kind) in enumerate(zip(first_of_label, kinds, strict=True), start=1):
            mask = ink_mask(digit, upright_layout(kind.width, kind.height))
            path = folder / f"{label}-{number:02}.{kind.extension}"
            write_sample(picture(mask, kind.mode), kind.orientation, path)


def picture(mask: Image.Image, mode: str) -> Image.Image:
    """Ink on paper in the given mode.

    Args:
        mask: Mode L, from `ink_mask`.
        mode: L, RGB, P, I;16, LA or RGBA. With alpha, the paper too has the colour of the ink
            and is transparent: a reader that drops alpha sees one even area.
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
    """Write the picture; the path's extension names the format.

    Args:
        upright: What a viewer shows.
        orientation: EXIF orientation to store; 1 stores none.
        path: Of the file.
    """
    if orientation == 1:
        upright.save(path)
        return
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright.transpose(STORED_TURNED[orientation]).save(path, exif=exif)


if __name__ == "__main__":
    main(sys.argv[1:])
