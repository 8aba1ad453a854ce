"""BMP, GIF and WebP → the pixels the file was built from."""

import pytest
from PIL import Image

from preprocessing import DecodeRules
from preprocessing.errors import UndecodableImage
from tests.preprocessing.encoders import bmp, exif_orientation, gif, gif_control, gif_frame
from tests.preprocessing.files import encoded, noise, pixels

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK, MAGENTA = (255, 255, 255), (0, 0, 0), (255, 0, 255)
ON_WHITE = DecodeRules(alpha="white")
BGR0 = bytes([0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0])  # red, green, blue


def grey(value):
    return (value, value, value)


def test_bmp_rows_are_stored_from_the_bottom_and_channels_as_bgr():
    data = bytes([255, 0, 0, 255, 255, 255, 0, 0]) + bytes([0, 0, 255, 0, 255, 0, 0, 0])

    assert pixels(bmp((2, 2), 24, data)) == [[RED, GREEN], [BLUE, WHITE]]


def test_bmp_with_negative_height_is_stored_from_the_top():
    data = bytes([0, 0, 255, 0]) + bytes([255, 0, 0, 0])

    assert pixels(bmp((1, -2), 24, data)) == [[RED], [BLUE]]


@pytest.mark.parametrize(
    ("bits", "row"), [(8, bytes([0, 1, 2, 0])), (4, bytes([0x01, 0x20, 0, 0]))]
)
def test_bmp_palette(bits, row):
    assert pixels(bmp((3, 1), bits, row, BGR0)) == [[RED, GREEN, BLUE]]


def test_bmp_of_one_bit():
    black_and_white = bytes([0, 0, 0, 0, 255, 255, 255, 0])

    assert pixels(bmp((3, 1), 1, bytes([0b01000000, 0, 0, 0]), black_and_white)) == [
        [BLACK, WHITE, BLACK]
    ]


def test_bmp_of_16_bits_has_5_bits_a_channel():
    # 0RRRRRGGGGGBBBBB: 31 and 16 of 31
    data = (31 << 10 | 16).to_bytes(2, "little") + b"\0\0"

    assert pixels(bmp((1, 1), 16, data)) == [[(255, 0, 16 * 255 // 31)]]


def test_bmp_run_lengths():
    data = bytes([2, 0, 1, 2, 0, 0, 3, 1, 0, 1])  # two red, one blue, next row, three green, end

    assert pixels(bmp((3, 2), 8, data, BGR0, rle=1)) == [[GREEN] * 3, [RED, RED, BLUE]]


def test_gif():
    file = gif((3, 1), [RED, GREEN, BLUE], gif_frame((0, 0, 3, 1), bytes([2, 1, 0])))

    assert pixels(file) == [[BLUE, GREEN, RED]]


def test_gif_transparency_follows_the_alpha_rule():
    control = gif_control(transparent=1)
    file = gif((3, 1), [RED, MAGENTA, BLUE], gif_frame((0, 0, 3, 1), bytes([2, 1, 0]), control))

    assert pixels(file) == [[BLUE, MAGENTA, RED]]
    assert pixels(file, ON_WHITE) == [[BLUE, WHITE, RED]]


def test_gif_interlaced_rows_come_out_in_order():
    stored = bytes([0, 8, 4, 2, 6, 1, 3, 5, 7])  # every 8th from 0, from 4, every 4th, every 2nd
    palette = [(value * 20, 0, 0) for value in range(9)]
    file = gif((1, 9), palette, gif_frame((0, 0, 1, 9), stored, interlace=True))

    assert pixels(file) == [[(value * 20, 0, 0)] for value in range(9)]


def test_gif_of_several_frames_is_its_first():
    first = gif_frame((0, 0, 1, 1), bytes([0]), gif_control(disposal=2))
    file = gif((1, 1), [RED, GREEN], first, gif_frame((0, 0, 1, 1), bytes([1])))

    assert pixels(file) == [[RED]]


def test_gif_whose_second_frame_is_damaged_is_its_first():
    whole = gif((1, 1), [RED, GREEN], gif_frame((0, 0, 1, 1), bytes([0])))

    assert pixels(whole[:-1] + b",damaged") == [[RED]]


@pytest.mark.parametrize("rules", [DecodeRules(), ON_WHITE], ids=["drop", "white"])
def test_gif_frame_whose_own_palette_is_plain_grey(rules):
    greys = [grey(value) for value in range(128)]
    own = gif_frame((0, 0, 2, 1), bytes([7, 9]), gif_control(transparent=5), palette=greys)

    assert pixels(gif((2, 1), [RED, GREEN], own), rules) == [[grey(7), grey(9)]]
    assert pixels(gif((2, 1), [RED, GREEN], own), DecodeRules(mode="L")) == [[7, 9]]


def test_gif_frame_smaller_than_the_screen():
    file = gif((3, 1), [RED, GREEN, BLUE], gif_frame((1, 0, 1, 1), bytes([2])))

    assert pixels(file)[0][1] == BLUE


def test_webp_lossless():
    image = noise(9, 5)

    expected = [[image.getpixel((x, y)) for x in range(9)] for y in range(5)]

    assert pixels(encoded(image, "WEBP", lossless=True)) == expected


def test_webp_lossy_flat_colour():
    file = encoded(Image.new("RGB", (16, 16), (200, 30, 60)), "WEBP", quality=90)

    red, green, blue = pixels(file)[8][8]
    assert abs(red - 200) + abs(green - 30) + abs(blue - 60) <= 9


def test_webp_alpha_follows_the_alpha_rule():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*MAGENTA, 0))
    file = encoded(image, "WEBP", lossless=True, exact=True)

    assert pixels(file) == [[RED, MAGENTA]]
    assert pixels(file, ON_WHITE) == [[RED, WHITE]]


def test_webp_of_several_frames_is_its_first():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    file = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)

    assert pixels(file)[0][0] == RED


def test_webp_orientation():
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    file = encoded(image, "WEBP", lossless=True, exif=b"Exif\0\0" + exif_orientation(3))

    assert pixels(file, DecodeRules(exif_orientation=True)) == [[BLUE, RED]]


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_half_a_file_of_any_kind_is_refused(container):
    file = encoded(noise(40, 40), container)

    with pytest.raises(UndecodableImage):
        pixels(file[: len(file) // 2])
