"""Shrink-on-load: at which scale a JPEG is decoded."""

import pytest
from PIL import Image

from preprocessing import DecodeRules, decode_image
from tests.preprocessing.files import LIMITS, encoded

COLOUR = (200, 30, 60)


@pytest.mark.parametrize(
    ("side", "size", "expected"),
    [
        (100, (1600, 800), (200, 100)),  # 1/8: the shorter side keeps 100
        (101, (1600, 800), (400, 200)),  # 1/8 would leave 100
        (400, (1600, 800), (800, 400)),
        (401, (1600, 800), (1600, 800)),
        (1, (1600, 800), (200, 100)),  # 1/8 is the smallest libjpeg has here
        (100, (801, 1601), (101, 201)),  # rounded up
    ],
)
def test_the_scale_is_the_smallest_that_keeps_the_shorter_side(side, size, expected):
    file = encoded(Image.new("RGB", size, COLOUR), "JPEG", quality=95)

    for mode, colour in (("RGB", COLOUR), ("L", 84)):  # 0.299·200 + 0.587·30 + 0.114·60
        image = decode_image(file, DecodeRules(mode=mode, shrink_jpeg_to_side=side), LIMITS)
        assert image.size == expected
        assert image.getpixel((50, 50)) == pytest.approx(colour, abs=2)


@pytest.mark.parametrize("container", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_kinds_are_decoded_in_full(container):
    file = encoded(Image.new("RGB", (160, 80)), container)

    assert decode_image(file, DecodeRules(shrink_jpeg_to_side=10), LIMITS).size == (160, 80)
