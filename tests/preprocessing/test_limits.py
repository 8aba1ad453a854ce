"""Each limit refuses files that exceed it, with its own error, before they cost anything."""

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
from preprocessing.errors import (
    FileTooLarge,
    ImageRejected,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImage,
)
from tests.preprocessing.encoders import PNG_GREY, bmp, gif, gif_frame, png
from tests.preprocessing.files import encoded, imagenet, noise

IMAGENET = SpecPreprocessing(imagenet())
TALL = png((4, 40), 8, PNG_GREY, [bytes(4)] * 40)
WIDE = png((40, 4), 8, PNG_GREY, [bytes(40)] * 4)
PAGE = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text()


def decode(data: bytes, **limits: float) -> Image.Image:
    return decode_image(data, DecodeRules(), DecodeLimits.model_validate(limits))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UndecodableImage),
        (b"<svg/>", UnsupportedImage),
        (b"RIFF\0\0\0\0WAVEfmt ", UnsupportedImage),
        (b"GIF88a", UnsupportedImage),
        (TALL, FileTooLarge),
    ],
)
def test_an_empty_an_unsupported_and_a_too_large_file_are_told_apart(
    data: bytes, error: type[ImageRejected]
) -> None:
    with pytest.raises(error):
        decode(data, max_bytes=len(TALL) - 1)
    assert decode(TALL, max_bytes=len(TALL)).size == (4, 40)


# 10 scans in Pillow's script of a progressive file.
PROGRESSIVE = encoded(noise(16, 16), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
# 4 bytes per pixel, and 6 more for the coefficients of a progressive file.
MEGAPIXEL, SCANS_MEGAPIXEL = (
    encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=progressive)
    for progressive in (False, True)
)
MANY_READS = gif(
    (1, 1), [(0, 0, 0)], b"!\xfe" + b"\1x" * 20_000 + b"\0", gif_frame((0, 0, 1, 1), b"\0")
)


@pytest.mark.parametrize(
    ("file", "limit", "passes", "refused", "message"),
    [
        (PROGRESSIVE, "max_pixels", 256, 255, "16×16 = 256 pixels, .* is 255"),
        (TALL, "max_aspect_ratio", 10, 9.9, r"4×40, .* at most 9\.9 times"),
        (WIDE, "max_aspect_ratio", 10, 9.9, r"40×4, .* at most 9\.9 times"),
        (PROGRESSIVE, "max_jpeg_scans", 10, 9, "10 scans, the limit is 9"),
        (MEGAPIXEL, "max_decode_memory_bytes", 13_000_000, 12_000_000, "bytes of memory"),
        (SCANS_MEGAPIXEL, "max_decode_memory_bytes", 19_000_000, 13_000_000, "bytes of memory"),
        (MANY_READS, "max_decode_reads", 500_000, 10_000, "more than 10000 reads"),
    ],
)
def test_a_file_at_the_limit_passes_and_one_beyond_it_is_too_large(
    file: bytes, limit: str, passes: float, refused: float, message: str
) -> None:
    assert decode(file, **{limit: passes})
    with pytest.raises(ImageTooLarge, match=message):
        decode(file, **{limit: refused})


@pytest.mark.parametrize(
    ("file", "limits", "message"),
    [
        pytest.param(png((5001, 5000), 8, PNG_GREY, []), {}, "25005000 pixels", id="no data"),
        *(  # truncated, so that Pillow cannot open it
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
def test_a_declared_size_or_scan_count_is_refused_before_anything_is_decoded(
    file: bytes, limits: dict[str, float], message: str
) -> None:
    with pytest.raises(ImageTooLarge, match=message):
        decode(file, **limits)


def test_pixels_after_the_resize_are_counted_before_it() -> None:
    # 4 × 40 → 256 × 2560
    assert to_input(TALL, IMAGENET, DecodeLimits(max_resized_pixels=655_360)).shape == (224, 224, 3)
    with pytest.raises(ImageTooLarge, match="256×2560"):
        to_input(TALL, IMAGENET, DecodeLimits(max_resized_pixels=655_359))

    spec = PreprocessingSpec(resize=Resize(size=2, max_size=3), crop=2)
    with pytest.raises(ImageTooLarge, match="0×3"):
        to_input(TALL, SpecPreprocessing(spec), DecodeLimits())


def test_time_is_checked_at_every_read() -> None:
    file = bmp((2000, 2000), 8, bytes([1, 0]) * 200_000, bytes(1024), rle=1)

    with pytest.raises(ImageTooLarge, match=r"more than 0\.01 s"):
        decode(file, max_decode_cpu_seconds=0.01)


def test_markers_in_exif_and_after_the_end_of_a_baseline_jpeg_are_not_scans() -> None:
    file = encoded(noise(16, 16), "JPEG", exif=b"Exif\0\0" + PROGRESSIVE)

    assert decode(file + PROGRESSIVE, max_jpeg_scans=1)


def test_the_documentation_has_every_limit_with_its_default() -> None:
    for name, default in DecodeLimits().model_dump().items():
        shown = f"{default:,}" if isinstance(default, int) else f"{default:g}"
        assert f"`{name}` ({shown})" in PAGE
