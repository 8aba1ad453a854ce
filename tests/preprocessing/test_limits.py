"""Each limit refuses what exceeds it, with its own error, and before it costs anything."""

from pathlib import Path

import pytest
from PIL import Image

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
from tests.preprocessing.files import encoded, imagenet, noise

IMAGENET = SpecPreprocessing(imagenet())
TALL = png((4, 40), 8, PNG_GREY, [bytes(4)] * 40)
WIDE = png((40, 4), 8, PNG_GREY, [bytes(40)] * 4)
PAGE = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text()


def decode(data: bytes, **limits: float) -> Image.Image:
    return decode_image(data, DecodeRules(), DecodeLimits.model_validate(limits))


def test_an_empty_file_is_not_an_image() -> None:
    with pytest.raises(UndecodableImage, match="empty"):
        decode(b"")


@pytest.mark.parametrize(
    "data", [b"x", b"II*\0\x08\0\0\0", b"%PDF-1.7", b"<svg/>", b"RIFF\0\0\0\0WAVEfmt ", b"GIF88a"]
)
def test_what_is_none_of_the_five_kinds_is_an_unsupported_media_type(data: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        decode(data)


# 10 scans in Pillow's script of a progressive file.
PROGRESSIVE = encoded(noise(16, 16), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
# 4 bytes a pixel, and 6 more for the coefficients of a progressive file.
MEGAPIXEL, PROGRESSIVE_MEGAPIXEL = (
    encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=progressive)
    for progressive in (False, True)
)
MANY_READS = {
    "gif comment": gif(
        (1, 1), [(0, 0, 0)], b"!\xfe" + b"\1x" * 20_000 + b"\0", gif_frame((0, 0, 1, 1), b"\0")
    ),
    "png chunks": png((1, 1), 8, PNG_GREY, [b"\0"], png_chunk(b"tEXt", b"a\0b") * 20_000),
    "jpeg junk": PROGRESSIVE[:20] + bytes(20_000) + PROGRESSIVE[20:],
}


@pytest.mark.parametrize(
    ("file", "limit", "passes", "refused", "message"),
    [
        *(
            (encoded(noise(30, 20), kind), "max_pixels", 600, 599, "30×20 = 600 pixels, .* is 599")
            for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")
        ),
        (TALL, "max_aspect_ratio", 10, 9.9, r"4×40, .* at most 9\.9 times"),
        (WIDE, "max_aspect_ratio", 10, 9.9, r"40×4, .* at most 9\.9 times"),
        (PROGRESSIVE, "max_jpeg_scans", 10, 9, "10 scans, the limit is 9"),
        (MEGAPIXEL, "max_decode_memory_bytes", 13_000_000, 12_000_000, "bytes of memory"),
        (
            PROGRESSIVE_MEGAPIXEL,
            "max_decode_memory_bytes",
            19_000_000,
            13_000_000,
            "bytes of memory",
        ),
        *(
            (file, "max_decode_reads", 500_000, 10_000, "more than 10000 reads")
            for file in MANY_READS.values()
        ),
    ],
)
def test_a_file_at_the_limit_passes_and_one_beyond_it_is_too_large(
    file: bytes, limit: str, passes: float, refused: float, message: str
) -> None:
    assert decode(file, **{limit: passes})
    with pytest.raises(ImageTooLarge, match=message):
        decode(file, **{limit: refused})


def test_bytes() -> None:
    assert decode(TALL, max_bytes=len(TALL)).size == (4, 40)
    with pytest.raises(FileTooLarge, match=f"{len(TALL)} bytes, the limit is {len(TALL) - 1}"):
        decode(TALL, max_bytes=len(TALL) - 1)


@pytest.mark.parametrize(
    ("file", "limits", "message"),
    [
        pytest.param(png((5001, 5000), 8, PNG_GREY, []), {}, "25005000 pixels", id="no data"),
        *(  # cut short: Pillow cannot open it
            pytest.param(
                encoded(Image.new("RGB", (70, 60)), "WEBP", **{option: value})[:40],
                {"max_pixels": 4199},
                "70×60",
                id=f"webp {chunk}",
            )
            for chunk, option, value in [
                ("VP8L", "lossless", True),
                ("VP8 ", "quality", 50),
                ("VP8X", "exif", b"x"),
            ]
        ),
        pytest.param(
            gif((1, 1), [(0, 0, 0)], gif_frame((0, 0, 20, 20), bytes(400))),
            {"max_pixels": 399},
            "20×20",
            id="gif frame larger than the screen",
        ),
        pytest.param(
            gif((1, 1), [(0, 0, 0)], gif_frame((0, 0, 65535, 65535), b"")),
            {},
            "more pixels than the service reads",
            id="gif frame beyond Pillow's own limit",
        ),
        pytest.param(
            PROGRESSIVE[:-2] + LAST_SCAN * 90 + PROGRESSIVE[-2:],
            {},
            "100 scans, the limit is 64",
            id="many scans",
        ),
    ],
)
def test_what_a_file_declares_is_refused_before_anything_is_decoded(
    file: bytes, limits: dict[str, float], message: str
) -> None:
    with pytest.raises(ImageTooLarge, match=message):
        decode(file, **limits)


def test_pixels_after_the_resize_are_counted_before_it() -> None:
    # 4 × 40 → 256 × 2560
    assert to_input(TALL, IMAGENET, DecodeLimits(max_resized_pixels=655_360)).shape == (224, 224, 3)
    with pytest.raises(ImageTooLarge, match="256×2560"):
        to_input(TALL, IMAGENET, DecodeLimits(max_resized_pixels=655_359))


def test_a_side_that_would_become_nothing() -> None:
    spec = PreprocessingSpec(resize=Resize(size=2, max_size=3), crop=2)

    with pytest.raises(ImageTooLarge, match="0×3"):
        to_input(TALL, SpecPreprocessing(spec), DecodeLimits())


def test_time_is_checked_at_every_read() -> None:
    file = bmp((2000, 2000), 8, bytes([1, 0]) * 200_000, bytes(1024), rle=1)

    with pytest.raises(ImageTooLarge, match=r"more than 0\.01 s"):
        decode(file, max_decode_cpu_seconds=0.01)


def test_scans_of_a_baseline_jpeg_are_one_whatever_its_data_contain() -> None:
    file = encoded(noise(16, 16), "JPEG", exif=b"Exif\0\0" + PROGRESSIVE)

    assert decode(file + PROGRESSIVE, max_jpeg_scans=1)


def test_every_limit_is_on_the_page_with_its_default() -> None:
    for name, default in DecodeLimits().model_dump().items():
        shown = f"{default:,}" if isinstance(default, int) else f"{default:g}"
        assert f"`{name}` ({shown})" in PAGE
