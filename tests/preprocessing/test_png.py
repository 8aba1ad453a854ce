"""PNG of every colour type and depth → the pixels the file was built from."""

import struct
import zlib

import pytest

from preprocessing import DecodeRules
from preprocessing.errors import UndecodableImage
from tests.preprocessing.encoders import (
    PNG_GREY,
    PNG_GREY_ALPHA,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGBA,
    exif_orientation,
    interlaced_png,
    png,
    png_chunk,
)
from tests.preprocessing.files import pixels

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK, MAGENTA = (255, 255, 255), (0, 0, 0), (255, 0, 255)
PALETTE = png_chunk(b"PLTE", bytes([*RED, *GREEN, *BLUE, *MAGENTA]))
ON_WHITE, ON_BLACK = DecodeRules(alpha="white"), DecodeRules(alpha="black")


def grey(value):
    return (value, value, value)


def test_colour():
    file = png((2, 1), 8, PNG_RGB, [bytes([1, 2, 3, 4, 5, 6])])

    assert pixels(file) == [[(1, 2, 3), (4, 5, 6)]]


def test_colour_for_a_grey_network_is_luma():
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
    file = png((3, 1), 8, PNG_RGB, [bytes([*RED, *GREEN, *BLUE])])

    assert pixels(file, DecodeRules(mode="L")) == [[76, 150, 29]]


def test_grey():
    file = png((2, 1), 8, PNG_GREY, [bytes([7, 200])])

    assert pixels(file) == [[grey(7), grey(200)]]
    assert pixels(file, DecodeRules(mode="L")) == [[7, 200]]


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [
        (1, 0b10100000, [255, 0, 255]),
        (2, 0b00011011, [0, 85, 170]),  # thirds of 255
        (4, None, [0, 17, 255]),  # fifteenths of 255
    ],
)
def test_grey_of_less_than_8_bits_fills_the_range(depth, row, expected):
    packed = bytes([0x01, 0xF0]) if row is None else bytes([row])

    assert pixels(png((3, 1), depth, PNG_GREY, [packed])) == [[grey(v) for v in expected]]


def test_16_bit_grey_is_scaled_by_default_and_clipped_on_request():
    file = png((3, 1), 16, PNG_GREY, [struct.pack(">HHH", 0x00FF, 0x8000, 0xFFFF)])

    assert pixels(file) == [[grey(0), grey(128), grey(255)]]
    assert pixels(file, DecodeRules(mode="L")) == [[0, 128, 255]]
    assert pixels(file, DecodeRules(grey16="clip")) == [[grey(255)] * 3]


def test_16_bit_colour_keeps_the_high_byte():
    file = png((1, 1), 16, PNG_RGB, [struct.pack(">HHH", 0x12FF, 0x8000, 0xFF00)])

    assert pixels(file) == [[(0x12, 0x80, 0xFF)]]


def test_palette():
    file = png((4, 1), 2, PNG_PALETTE, [bytes([0b00011011])], extra=PALETTE)

    assert pixels(file) == [[RED, GREEN, BLUE, MAGENTA]]


def test_palette_transparency_follows_the_alpha_rule():
    # Entries 0 and 1 are opaque and half transparent; what is not listed is opaque.
    transparency = png_chunk(b"tRNS", bytes([255, 51, 255, 0]))
    file = png((4, 1), 2, PNG_PALETTE, [bytes([0b00011011])], extra=PALETTE + transparency)

    assert pixels(file) == [[RED, GREEN, BLUE, MAGENTA]]
    assert pixels(file, ON_WHITE) == [[RED, (204, 255, 204), BLUE, WHITE]]
    assert pixels(file, ON_BLACK) == [[RED, (0, 51, 0), BLUE, BLACK]]


def test_more_transparencies_than_a_palette_has_entries_are_a_damaged_file():
    transparency = png_chunk(b"tRNS", bytes(300))
    file = png((4, 1), 2, PNG_PALETTE, [bytes([0b00011011])], extra=PALETTE + transparency)

    with pytest.raises(UndecodableImage):
        pixels(file, ON_WHITE)


def test_alpha_shows_the_hidden_colour_or_the_stated_ground():
    file = png((2, 1), 8, PNG_RGBA, [bytes([*RED, 255, *MAGENTA, 0])])

    assert pixels(file) == [[RED, MAGENTA]]
    assert pixels(file, ON_WHITE) == [[RED, WHITE]]
    assert pixels(file, ON_BLACK) == [[RED, BLACK]]


def test_grey_with_alpha():
    file = png((2, 1), 8, PNG_GREY_ALPHA, [bytes([100, 255, 100, 51])])

    assert pixels(file) == [[grey(100), grey(100)]]
    assert pixels(file, ON_WHITE) == [[grey(100), grey(224)]]  # 255 - (255 - 100) / 5
    assert pixels(file, DecodeRules(mode="L", alpha="black")) == [[100, 20]]


@pytest.mark.parametrize("depth", [8, 16])
def test_one_transparent_grey_follows_the_alpha_rule(depth):
    value = struct.pack(">B" if depth == 8 else ">H", 100 if depth == 8 else 100 * 256 + 7)
    other = struct.pack(">B" if depth == 8 else ">H", 50 if depth == 8 else 50 * 256)
    key = png_chunk(b"tRNS", value.rjust(2, b"\0"))
    file = png((2, 1), depth, PNG_GREY, [value + other], extra=key)

    assert pixels(file) == [[grey(100), grey(50)]]
    assert pixels(file, ON_WHITE) == [[WHITE, grey(50)]]


def test_one_transparent_colour_follows_the_alpha_rule():
    key = png_chunk(b"tRNS", struct.pack(">HHH", *MAGENTA))
    file = png((2, 1), 8, PNG_RGB, [bytes([*RED, *MAGENTA])], extra=key)

    assert pixels(file) == [[RED, MAGENTA]]
    assert pixels(file, ON_BLACK) == [[RED, BLACK]]


def test_interlaced_rows_come_out_in_order():
    expected = [[(x * 20, y * 30, 5) for x in range(11)] for y in range(7)]
    file = interlaced_png([[bytes(pixel) for pixel in row] for row in expected], PNG_RGB)

    assert pixels(file) == expected


def test_exif_chunk_turns_the_picture():
    orientation = png_chunk(b"eXIf", exif_orientation(6, ">"))
    file = png((2, 1), 8, PNG_RGB, [bytes([*RED, *BLUE])], extra=orientation)

    assert pixels(file, DecodeRules(exif_orientation=True)) == [[RED], [BLUE]]


def test_colour_profile_is_not_applied():
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"not even a profile"))
    gamma = png_chunk(b"gAMA", struct.pack(">I", 10_000))
    file = png((1, 1), 8, PNG_RGB, [bytes([9, 8, 7])], extra=profile + gamma)

    assert pixels(file) == [[(9, 8, 7)]]
