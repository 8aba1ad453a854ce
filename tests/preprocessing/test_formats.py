"""The decode rules, on files whose pixels are known by construction.

test_conformance.py compares plain files of every container, mode and depth with Pillow.
"""

import struct
from typing import Any

import pytest
from PIL import Image

from preprocessing import DecodeRules, decode_image
from preprocessing.errors import UndecodableImage
from tests.preprocessing.encoders import (
    PNG_GREY,
    PNG_GREY_ALPHA,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGB_ALPHA,
    gif,
    gif_control,
    gif_frame,
    png,
    png_chunk,
)
from tests.preprocessing.files import LIMITS, encoded, noise, pixels

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK, MAGENTA = (255, 255, 255), (0, 0, 0), (255, 0, 255)
DROP, ON_WHITE, ON_BLACK = DecodeRules(), DecodeRules(alpha="white"), DecodeRules(alpha="black")
GREY, CLIP = DecodeRules(mode="L"), DecodeRules(grey16="clip")
GREY_ON_BLACK = DecodeRules(mode="L", alpha="black")

FOUR = bytes([0b00011011])  # indices 0, 1, 2, 3 of a palette
PALETTE = png_chunk(b"PLTE", bytes([*RED, *GREEN, *BLUE, *MAGENTA]))
GREYS = [(value,) * 3 for value in range(128)]


def grey(*values: int) -> list[tuple[int, ...]]:
    return [(value,) * 3 for value in values]


def png_row(depth: int, colour: int, row: bytes, width: int, extra: bytes = b"") -> bytes:
    return png((width, 1), depth, colour, [row], extra)


def transparent(*samples: int) -> bytes:
    """Encode the PNG chunk that declares one colour transparent."""
    return png_chunk(b"tRNS", struct.pack(f">{len(samples)}H", *samples))


def one_frame(*indices: int, transparent: int | None = None) -> bytes:
    control = b"" if transparent is None else gif_control(transparent)
    return gif_frame((0, 0, len(indices), 1), bytes(indices), control)


def red_and_blue(container: str, side: int, **options: object) -> bytes:
    """Encode a file of two pictures."""
    red, blue = (Image.new("RGB", (side, side), colour) for colour in (RED, BLUE))
    return encoded(red, container, save_all=True, append_images=[blue], **options)


ROWS: dict[str, tuple[bytes, dict[DecodeRules, list[Any]]]] = {
    "png-rgb": (
        png_row(8, PNG_RGB, bytes([*RED, *GREEN, *BLUE]), 3),
        # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
        {DROP: [RED, GREEN, BLUE], GREY: [76, 150, 29]},
    ),
    "png-grey16": (
        png_row(16, PNG_GREY, struct.pack(">HHH", 0x00FF, 0x8000, 0xFFFF), 3),
        {DROP: grey(0, 128, 255), GREY: [0, 128, 255], CLIP: grey(255, 255, 255)},
    ),
    "png-one-transparent-grey16": (
        png_row(16, PNG_GREY, struct.pack(">HH", 25607, 50 << 8), 2, transparent(25607)),
        {DROP: grey(100, 50), ON_WHITE: grey(255, 50)},
    ),
    "png-palette-alpha": (
        # Entry 1 has an opacity of 1/5, entry 3 of 0.
        png_row(2, PNG_PALETTE, FOUR, 4, PALETTE + png_chunk(b"tRNS", bytes([255, 51, 255, 0]))),
        {
            DROP: [RED, GREEN, BLUE, MAGENTA],
            ON_WHITE: [RED, (204, 255, 204), BLUE, WHITE],
            ON_BLACK: [RED, (0, 51, 0), BLUE, BLACK],
        },
    ),
    "png-grey-alpha": (
        png_row(8, PNG_GREY_ALPHA, bytes([100, 255, 100, 51]), 2),
        # 255 - (255 - 100) / 5 = 224
        {DROP: grey(100, 100), ON_WHITE: grey(100, 224), GREY_ON_BLACK: [100, 20]},
    ),
    "png-one-transparent-colour": (
        png_row(8, PNG_RGB, bytes([*RED, *MAGENTA]), 2, transparent(*MAGENTA)),
        {DROP: [RED, MAGENTA], ON_BLACK: [RED, BLACK]},
    ),
    "gif-of-two-frames": (
        gif((1, 1), [RED, GREEN], one_frame(0, transparent=3), one_frame(1)),
        {DROP: [RED]},
    ),
    "gif-damaged-after-the-first-frame": (
        gif((1, 1), [RED, GREEN], one_frame(0))[:-1] + b",damaged",
        {DROP: [RED]},
    ),
    "gif-of-a-grey-frame-on-a-coloured-screen": (
        gif(
            (2, 1),
            [RED, GREEN],
            gif_frame((0, 0, 2, 1), bytes([7, 9]), gif_control(transparent=5), palette=GREYS),
        ),
        {DROP: grey(7, 9), ON_WHITE: grey(7, 9), GREY: [7, 9]},
    ),
    "png-rgb-alpha": (
        png_row(8, PNG_RGB_ALPHA, bytes([*RED, 255, *MAGENTA, 0]), 2),
        {DROP: [RED, MAGENTA], ON_WHITE: [RED, WHITE]},
    ),
    "webp-of-two-frames": (red_and_blue("WEBP", 1, lossless=True), {DROP: [RED]}),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_decode_rule_gives_the_pixels_derived_by_hand(name: str) -> None:
    file, expected = ROWS[name]

    for rules, row in expected.items():
        assert pixels(file, rules) == [row], rules


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(red_and_blue("MPO", 8, quality=95), RED, id="the-first-of-two-pictures"),
        pytest.param(  # (255 - C)(255 - K) / 255 of C 10, M 60, Y 110, K 40
            encoded(Image.new("CMYK", (8, 8), (10, 60, 110, 40)), "JPEG", quality=100),
            (206.6, 164.4, 122.3),
            id="cmyk",
        ),
    ],
)
def test_a_single_colour_jpeg_is_decoded_within_the_rounding_of_the_codec(
    file: bytes, expected: tuple[float, ...]
) -> None:
    assert pixels(file)[5][5] == pytest.approx(expected, abs=3)


FILES = [encoded(noise(40, 40), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
LONG_TRANSPARENCY = png_row(2, PNG_PALETTE, FOUR, 4, PALETTE + png_chunk(b"tRNS", bytes(300)))


@pytest.mark.parametrize("file", [*(file[: len(file) // 2] for file in FILES), LONG_TRANSPARENCY])
def test_a_truncated_file_or_one_with_more_transparencies_than_colours_is_refused(
    file: bytes,
) -> None:
    with pytest.raises(UndecodableImage):
        pixels(file, ON_WHITE)


@pytest.mark.parametrize(
    ("side", "size", "expected"),
    [
        (100, (1600, 800), (200, 100)),  # 1/8: the shorter side keeps 100
        (101, (1600, 800), (400, 200)),  # 1/8 would leave 100
        (401, (1600, 800), (1600, 800)),
        (100, (801, 1601), (101, 201)),  # rounded up
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_keeps_the_shorter_side(
    side: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    file = encoded(Image.new("RGB", size, (200, 30, 60)), "JPEG", quality=95)

    colour = decode_image(file, DecodeRules(shrink_jpeg_to_side=side), LIMITS)
    grey = decode_image(file, DecodeRules(mode="L", shrink_jpeg_to_side=side), LIMITS)

    assert colour.size == grey.size == expected
    assert colour.getpixel((50, 50)) == pytest.approx((200, 30, 60), abs=2)
    assert grey.getpixel((50, 50)) == pytest.approx(84, abs=2)  # 0.299·200 + 0.587·30 + 0.114·60
