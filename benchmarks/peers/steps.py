"""Bytes to input and logits to answer, with Pillow and numpy: what all peers have in common."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.workload import DIGITS, WORKLOAD_VARIABLE, Workload, read_workload

TOP_K = 5
INK = 64
"""Fainter marks do not move the box around a digit."""
DIGIT_PART = 26 / 32
"""Of the side of the input, the longer side of a digit."""

Array = np.ndarray[Any, Any]


def workload_from_environment() -> Workload:
    """The workload this server was started for."""
    return read_workload(Path(os.environ[WORKLOAD_VARIABLE]))


def to_input(data: bytes, workload: Workload) -> Array:
    """Decode, resize and crop one file as torchvision's classification preset does.

    Returns:
        uint8 (crop_size, crop_size, 3), RGB; for the digits see `to_digit`.
    """
    if workload.architecture == DIGITS:
        return to_digit(data, workload.crop_size)
    image = Image.open(BytesIO(data)).convert("RGB")
    scale = workload.resize_size / min(image.size)
    # The longer side is truncated, not rounded (torchvision.transforms.functional.resize).
    width, height = (
        workload.resize_size if side == min(image.size) else int(side * scale)
        for side in image.size
    )
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left = round((width - workload.crop_size) / 2)
    top = round((height - workload.crop_size) / 2)
    return np.asarray(image)[top : top + workload.crop_size, left : left + workload.crop_size]


def to_digit(data: bytes, side: int) -> Array:
    """Dark ink on light paper, as the digits example wants it: uint8 (side, side, 1)."""
    image = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    ink = ImageOps.invert(ImageOps.autocontrast(Image.alpha_composite(paper, image).convert("L")))
    canvas = Image.new("L", (side, side), 0)
    if box := ink.point([255 * (level >= INK) for level in range(256)]).getbbox():
        digit = ink.crop(box)
        scale = DIGIT_PART * side / max(digit.size)
        width, height = (max(1, round(length * scale)) for length in digit.size)
        digit = digit.resize((width, height), Image.Resampling.BILINEAR)
        canvas.paste(digit, ((side - width) // 2, (side - height) // 2))
    return np.asarray(canvas)[:, :, None]


def predictions(logits: Array) -> dict[str, Any]:
    """The best classes of one image, as the answer of every peer has them.

    Args:
        logits: (classes,), float32.
    """
    exponentials = np.exp(logits - logits.max())
    best = np.argsort(-logits)[:TOP_K]
    return {
        "predictions": [
            {
                "label": f"class {index}",
                "class_id": int(index),
                "probability": float(exponentials[index] / exponentials.sum()),
            }
            for index in best
        ]
    }
