"""Any mode Pillow decodes to → the 8-bit RGB or grey image that a model sees."""

from typing import Literal

import numpy as np
from PIL import Image

from preprocessing.rules import DecodeRules

_BEHIND = {"white": (255, 255, 255), "black": (0, 0, 0)}


def to_colour_mode(image: Image.Image, rules: DecodeRules) -> Image.Image:
    """Convert a decoded image to `rules.mode`.

    Conversions are Pillow's: palette entries are looked up, CMYK is (255 - C)(255 - K) / 255,
    1-bit is 0 or 255, 16-bit colour keeps the high byte, ICC profiles are not applied.

    Args:
        image: Any mode of the read containers, loaded.
        rules: Target mode, and the rules for alpha and 16-bit grey.
    """
    transparent = image.mode in ("RGBA", "LA") or "transparency" in image.info
    if rules.alpha != "drop" and transparent:
        image = _composite(image, rules.alpha, rules.grey16)
    elif image.mode.startswith("I") and rules.grey16 == "scale":
        image = _high_byte(image)
    # Pillow warns of "transparency expressed in bytes" where it drops that of a palette.
    image.info.pop("transparency", None)
    # convert() copies even where nothing changes.
    return image if image.mode == rules.mode else image.convert(rules.mode)


def _composite(
    image: Image.Image, behind: Literal["white", "black"], grey16: Literal["scale", "clip"]
) -> Image.Image:
    """Lay the image over a plain colour. Result: RGB."""
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != image.info["transparency"]
        mask = Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
        image = (_high_byte(image) if grey16 == "scale" else image).convert("RGB")
    else:
        image = mask = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, _BEHIND[behind])
    canvas.paste(image, mask=mask)
    return canvas


def _high_byte(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits as Pillow scales 16-bit colour: the low byte is dropped."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
