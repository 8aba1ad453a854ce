"""Specs, files and decoded pixels that several tests use."""

from io import BytesIO

import numpy as np
from PIL import Image

from preprocessing import DecodeLimits, DecodeRules, PreprocessingSpec, Resize, decode_image

LIMITS = DecodeLimits()


def imagenet(resize: int = 256, **changes: object) -> PreprocessingSpec:
    """Return the spec of torchvision's `ImageClassification` preset."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    usual = {"resize": Resize(size=resize), "crop": 224, "mean": mean, "std": std}
    return PreprocessingSpec.model_validate({**usual, **changes})


def pixels(data: bytes, rules: DecodeRules | None = None) -> list[list[object]]:
    """Decode a file to rows of (r, g, b) tuples, or of numbers for mode L."""
    image = decode_image(data, rules or DecodeRules(), LIMITS)
    width, height = image.size
    return [[image.getpixel((x, y)) for x in range(width)] for y in range(height)]


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    """Encode an image with Pillow."""
    file = BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    """Return an image of random pixels, RGB or L."""
    random = np.random.default_rng(seed)
    array = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(array[..., 0] if channels == 1 else array)
