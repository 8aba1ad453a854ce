"""JPEG of every colour model and order of coding → pixels within the rounding of the coder."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from preprocessing import DecodeRules, decode_image
from tests.preprocessing.encoders import jpeg_with_segment, jpeg_without_segment
from tests.preprocessing.files import LIMITS, encoded, noise, pixels

APP2, ADOBE_APP14 = 0xE2, 0xEE
INK = (10, 60, 110, 40)  # C, M, Y, K, of 255


def flat_cmyk() -> bytes:
    """CMYK with Adobe marker: Pillow stores inks inverted then, as Photoshop does."""
    return encoded(Image.new("CMYK", (8, 8), INK), "JPEG", quality=100)


def with_adobe_transform(jpeg: bytes, transform: int) -> bytes:
    """The same coded numbers, declared as CMYK (0) or YCCK (2)."""
    at = jpeg.index(b"Adobe") + 11
    return jpeg[:at] + bytes([transform]) + jpeg[at + 1 :]


def near(got, expected):
    return all(abs(a - b) <= 2 for a, b in zip(got, expected, strict=True))


def rgb_of(ink):
    *colours, black = ink
    return tuple((255 - colour) * (255 - black) / 255 for colour in colours)


@pytest.mark.parametrize("colour", [(200, 30, 60), (12, 240, 99)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_flat_colour(colour, options):
    file = encoded(Image.new("RGB", (16, 16), colour), "JPEG", quality=95, **options)

    assert all(near(pixel, colour) for row in pixels(file) for pixel in row)


def test_progressive_and_baseline_decode_to_the_same_pixels():
    image = noise(33, 17)
    baseline = encoded(image, "JPEG", quality=90)
    progressive = encoded(image, "JPEG", quality=90, progressive=True)

    assert pixels(progressive) == pixels(baseline)


def test_grey():
    file = encoded(Image.new("L", (8, 8), 77), "JPEG")

    assert pixels(file)[0][0] == (77, 77, 77)
    assert pixels(file, DecodeRules(mode="L"))[3][3] == 77


def test_cmyk_with_adobe_marker():
    assert near(pixels(flat_cmyk())[0][0], rgb_of(INK))


def test_cmyk_without_adobe_marker_is_taken_as_inverted_too():
    file = jpeg_without_segment(flat_cmyk(), ADOBE_APP14)

    assert b"Adobe" not in file
    assert near(pixels(file)[0][0], rgb_of(INK))


def test_ycck_is_turned_into_cmyk_first():
    # The coded numbers are the inverted inks; read as Y, Cb, Cr they are (T.871) an RGB
    # picture whose complement, inverted again by the Adobe rule, is the inks.
    y, cb, cr, black = (255 - ink for ink in INK)
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    complement = [min(max(255 - value, 0), 255) for value in (red, green, blue)]
    expected = [value * black / 255 for value in complement]

    assert near(pixels(with_adobe_transform(flat_cmyk(), 2))[0][0], expected)


def test_rgb_stored_without_transform():
    file = encoded(Image.new("RGB", (8, 8), (10, 130, 250)), "JPEG", quality=100, keep_rgb=True)

    assert near(pixels(file)[0][0], (10, 130, 250))


def test_colour_profile_is_not_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = encoded(noise(16, 16), "JPEG")
    tagged = jpeg_with_segment(plain, APP2, b"ICC_PROFILE\0\1\1" + profile)

    assert pixels(tagged) == pixels(plain)


def test_first_picture_of_a_multi_picture_file():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    file = BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:], quality=95)

    assert near(pixels(file.getvalue())[0][0], (200, 0, 0))


def test_what_follows_the_end_is_ignored():
    file = encoded(noise(16, 16), "JPEG")

    decoded = decode_image(file + b"junk after the end", DecodeRules(), LIMITS)

    assert np.array_equal(decoded, decode_image(file, DecodeRules(), LIMITS))
