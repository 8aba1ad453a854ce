"""Shrink-on-load: which scale a JPEG is decoded at, and how far that moves the pixels."""

import numpy as np
import pytest
from PIL import Image

from preprocessing import DecodeRules, PreprocessingSpec, SpecPreprocessing, decode_image
from tests.preprocessing.differences import shrink_difference
from tests.preprocessing.files import LIMITS, encoded, noise
from tests.shared_data import SHARED, needs_shared_data


def shrunk_size(side, size, container="JPEG"):
    file = encoded(Image.new("RGB", size), container)
    return decode_image(file, DecodeRules(shrink_jpeg_to_side=side), LIMITS).size


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
    assert shrunk_size(side, size) == expected


@pytest.mark.parametrize("container", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_kinds_are_decoded_in_full(container):
    assert shrunk_size(10, (160, 80), container) == (160, 80)


def test_colours_stay_what_they_are():
    file = encoded(Image.new("RGB", (800, 800), (200, 30, 60)), "JPEG", quality=95)

    for mode, expected in (("RGB", (200, 30, 60)), ("L", 84)):  # 0.299·200 + 0.587·30 + 0.114·60
        image = decode_image(file, DecodeRules(mode=mode, shrink_jpeg_to_side=100), LIMITS)
        assert image.size == (100, 100)
        assert np.abs(np.subtract(image.getpixel((50, 50)), expected)).max() <= 2


def shrinking(side):
    spec = PreprocessingSpec.imagenet(resize=64, crop=56)
    decode = DecodeRules(shrink_jpeg_to_side=side)
    return spec.model_copy(update={"decode": decode})


def test_the_difference_to_a_full_decode_is_0_where_nothing_is_shrunk():
    file = encoded(noise(100, 100), "JPEG")

    assert shrink_difference(file, shrinking(None), LIMITS) == 0
    assert shrink_difference(file, shrinking(51), LIMITS) == 0


def test_the_difference_to_a_full_decode_is_that_of_the_worst_pixel():
    file = encoded(noise(800, 800), "JPEG")
    full, shrunk = (
        SpecPreprocessing(shrinking(None))
        .to_input(decode_image(file, DecodeRules(**rules), LIMITS))
        .astype(int)
        for rules in ({}, {"shrink_jpeg_to_side": 64})
    )

    difference = shrink_difference(file, shrinking(64), LIMITS)

    assert difference == np.abs(full - shrunk).max() > 0


@needs_shared_data
def test_photos_move_by_few_levels_when_twice_the_resized_side_is_kept():
    spec = PreprocessingSpec.imagenet().model_copy(
        update={"decode": DecodeRules(shrink_jpeg_to_side=512)}
    )

    for photo in (SHARED / "images" / "photos").glob("*.jpg"):
        assert 0 < shrink_difference(photo.read_bytes(), spec, LIMITS) < 64
