"""Each limit refuses what exceeds it, with its own error, and before it costs anything."""

import time

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from preprocessing import (
    DecodeLimits,
    DecodeRules,
    PreprocessingSpec,
    Resize,
    SpecPreprocessing,
    decode_image,
    to_input,
)
from preprocessing.errors import FileTooLarge, ImageTooLarge, UndecodableImage, UnsupportedImage
from tests.preprocessing.encoders import PNG_GREY, bmp, gif, gif_frame, png, png_chunk
from tests.preprocessing.files import encoded, noise

IMAGENET = SpecPreprocessing(PreprocessingSpec.imagenet())
TALL = png((4, 40), 8, PNG_GREY, [bytes(4)] * 40)


def decode(data: bytes, **limits: float) -> Image.Image:
    return decode_image(data, DecodeRules(), DecodeLimits(**limits))


def test_an_empty_file_is_not_an_image():
    with pytest.raises(UndecodableImage, match="empty"):
        decode(b"")


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"II*\0\x08\0\0\0",
        b"%PDF-1.7",
        b"<svg/>",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"GIF88a",
        b"\0" * 99,
    ],
)
def test_what_is_none_of_the_five_kinds_is_an_unsupported_media_type(data):
    with pytest.raises(UnsupportedImage):
        decode(data)


def test_bytes():
    assert decode(TALL, max_bytes=len(TALL)).size == (4, 40)
    with pytest.raises(FileTooLarge, match=f"{len(TALL)} bytes, the limit is {len(TALL) - 1}"):
        decode(TALL, max_bytes=len(TALL) - 1)


@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_pixels(container):
    file = encoded(noise(30, 20), container)

    assert decode(file, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageTooLarge, match="30×20 = 600 pixels, the limit is 599"):
        decode(file, max_pixels=599)


def test_pixels_are_counted_before_the_data_are_looked_at():
    claims = png((5001, 5000), 8, PNG_GREY, [])  # no data at all

    with pytest.raises(ImageTooLarge, match="25005000 pixels"):
        decode(claims)


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exif": b"x"}]
)
def test_pixels_of_a_webp_are_counted_before_its_canvas_is_allocated(options):
    file = encoded(Image.new("RGB", (70, 60)), "WEBP", **options)

    with pytest.raises(ImageTooLarge, match="70×60"):
        decode(file[:40], max_pixels=4199)  # cut short: Pillow cannot open it


def test_pixels_of_a_gif_frame_larger_than_the_screen():
    file = gif((1, 1), [(0, 0, 0)], gif_frame((0, 0, 20, 20), bytes(400)))

    with pytest.raises(ImageTooLarge, match="20×20"):
        decode(file, max_pixels=399)


def test_gif_frame_beyond_the_limit_of_pillow_itself():
    file = gif((1, 1), [(0, 0, 0)], gif_frame((0, 0, 65535, 65535), b""))

    with pytest.raises(ImageTooLarge):
        decode(file)


@pytest.mark.parametrize("size", [(4, 40), (40, 4)])
def test_aspect_ratio(size):
    file = png(size, 8, PNG_GREY, [bytes(size[0])] * size[1])

    assert decode(file, max_aspect_ratio=10).size == size
    with pytest.raises(ImageTooLarge, match=r"at most 9\.9 times"):
        decode(file, max_aspect_ratio=9.9)


def test_pixels_after_the_resize_are_counted_before_it():
    # 4 × 40 → 256 × 2560
    assert to_input(TALL, IMAGENET, DecodeLimits(max_resized_pixels=655_360)).shape == (224, 224, 3)
    with pytest.raises(ImageTooLarge, match="256×2560"):
        to_input(TALL, IMAGENET, DecodeLimits(max_resized_pixels=655_359))


def test_a_side_that_would_become_nothing():
    spec = PreprocessingSpec(resize=Resize(size=2, max_size=3), crop=2)

    with pytest.raises(ImageTooLarge, match="0×3"):
        to_input(TALL, SpecPreprocessing(spec), DecodeLimits())


def test_memory_is_estimated_from_the_header():
    file = encoded(Image.new("RGB", (1000, 1000)), "JPEG")
    progressive = encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)

    # 4 bytes a pixel, and 6 more for the coefficients of a progressive file
    assert decode(file, max_decode_memory_bytes=13_000_000)
    assert decode(progressive, max_decode_memory_bytes=19_000_000)
    with pytest.raises(ImageTooLarge, match="bytes of memory"):
        decode(progressive, max_decode_memory_bytes=13_000_000)


def test_time_is_checked_at_every_read():
    run = bytes([1, 0]) * 200_000
    file = bmp((2000, 2000), 8, run, bytes(1024), rle=1)
    started = time.thread_time()

    with pytest.raises(ImageTooLarge, match=r"more than 0\.01 s"):
        decode(file, max_decode_cpu_seconds=0.01)
    assert time.thread_time() - started < 0.1


@pytest.mark.parametrize(
    "file",
    [
        gif(
            (1, 1), [(0, 0, 0)], b"!\xfe" + b"\1x" * 20_000 + b"\0", gif_frame((0, 0, 1, 1), b"\0")
        ),
        png((1, 1), 8, PNG_GREY, [b"\0"], extra=png_chunk(b"tEXt", b"a\0b") * 20_000),
        encoded(noise(8, 8), "JPEG")[:20] + bytes(20_000) + encoded(noise(8, 8), "JPEG")[20:],
    ],
    ids=["gif comment", "png chunks", "jpeg junk"],
)
def test_reads_are_counted(file):
    assert decode(file)
    with pytest.raises(ImageTooLarge, match="more than 10000 reads"):
        decode(file, max_decode_reads=10_000)


def test_scans_of_a_progressive_jpeg():
    file = encoded(noise(16, 16), "JPEG", progressive=True)  # 10 scans in Pillow's script
    last = file.rindex(b"\xff\xda")
    many = file[:-2] + file[last:-2] * 90 + file[-2:]

    assert decode(file, max_jpeg_scans=10)
    with pytest.raises(ImageTooLarge, match="100 scans, the limit is 64"):
        decode(many)


def test_scans_of_a_baseline_jpeg_are_one_whatever_its_data_contain():
    thumbnail = encoded(noise(8, 8), "JPEG", progressive=True)
    file = encoded(noise(16, 16), "JPEG", exif=b"Exif\0\0" + thumbnail)

    assert decode(file + thumbnail, max_jpeg_scans=1)


def test_photos_of_25_megapixels_pass():
    file = encoded(Image.fromarray(np.zeros((4320, 5760, 3), np.uint8)), "JPEG")

    assert decode(file).size == (5760, 4320)


@pytest.mark.parametrize(
    "limits",
    [{"max_pixels": 0}, {"max_aspect_ratio": 0.5}, {"max_pixel": 5}, {"max_bytes": "many"}],
)
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValidationError):
        DecodeLimits(**limits)
