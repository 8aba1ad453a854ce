"""No file within the limits makes a process grow by more than 300 MB.

Each file is decoded in a process of its own, whose highest memory the kernel tells.
"""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.preprocessing.encoders import (
    PNG_RGB,
    gif,
    gif_control,
    gif_frame,
    png,
    png_chunk,
)
from tests.preprocessing.files import encoded, noise

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc"
    ),
]
# Prints the outcome and the growth in bytes. Resets the kernel's high-water mark first.
PROGRAM = """
import re, sys
from pathlib import Path
from preprocessing import *
from preprocessing.errors import ImageRejected
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
rules = DecodeRules.model_validate_json(sys.argv[2])
spec = PreprocessingSpec.imagenet().model_copy(update={"decode": rules})
data, small = Path(sys.argv[1]).read_bytes(), Path(sys.argv[3]).read_bytes()
to_input(small, SpecPreprocessing(spec), DecodeLimits())
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
try:
    to_input(data, SpecPreprocessing(spec), DecodeLimits())
    outcome = "ok"
except ImageRejected as error:
    outcome = error.code
print(outcome, memory("VmHWM") - before)
"""
COMPOSITED = '{"alpha": "white", "exif_orientation": true}'


def growth(file: bytes, folder: Path, rules: str = "{}") -> tuple[str, int]:
    (folder / "file").write_bytes(file)
    (folder / "small").write_bytes(encoded(noise(60, 60), "PNG"))
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "file", rules, folder / "small"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    outcome, grown_bytes = ran.stdout.split()
    return outcome, int(grown_bytes)


def picture(mode: str, megapixels: int) -> Image.Image:
    side = int((megapixels * 1_000_000) ** 0.5)
    random = np.random.default_rng(0).integers(0, 256, (side // 8 + 1, side // 8 + 1, 4), np.uint8)
    blocks = np.kron(random, np.ones((8, 8, 1), np.uint8))[:side, :side]
    if mode == "LA":
        return Image.fromarray(blocks[..., :2], "LA")
    image = Image.fromarray(blocks)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


LARGEST = {
    "jpeg": lambda: encoded(picture("RGB", 24), "JPEG", quality=30),
    "progressive jpeg": lambda: encoded(
        picture("RGB", 24), "JPEG", quality=30, subsampling=0, progressive=True
    ),
    "cmyk jpeg": lambda: encoded(picture("CMYK", 24), "JPEG", quality=30),
    "rgba png": lambda: encoded(picture("RGBA", 24), "PNG", compress_level=1),
    "la png": lambda: encoded(picture("LA", 23), "PNG", compress_level=1),
    "rgba webp": lambda: encoded(picture("RGBA", 17), "WEBP", method=0, quality=30),
    "gif": lambda: encoded(picture("L", 24), "GIF"),
}


@pytest.mark.parametrize("rules", ["{}", COMPOSITED], ids=["drop", "composited"])
@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_files_that_pass(kind, rules, tmp_path):
    outcome, grown_bytes = growth(LARGEST[kind](), tmp_path, rules)

    assert outcome == "ok"
    assert grown_bytes < 300_000_000


def png_of_inflating_texts() -> bytes:
    """60 texts of a million characters in 64 kB; one emoji makes each character 4 bytes."""
    text = zlib.compress(("a" * 1_000_000 + "\N{GRINNING FACE}").encode())
    texts = b"".join(png_chunk(b"iTXt", b"k%d\0\1\0\0\0" % n + text) for n in range(60))
    return png((1, 1), 8, PNG_RGB, [b"\0\0\0"], extra=texts)


def png_of_inflating_profile() -> bytes:
    profile = zlib.compress(bytes(64_000_000))
    return png((1, 1), 8, PNG_RGB, [b"\0\0\0"], extra=png_chunk(b"iCCP", b"x\0\0" + profile))


def gif_of_one_byte_comments() -> bytes:
    comment = b"!\xfe" + b"\1x" * 9_000_000 + b"\0"
    return gif((1, 1), [(0, 0, 0)], comment, gif_frame((0, 0, 1, 1), b"\0"))


def gif_of_disposed_giant_frame() -> bytes:
    control = gif_control(transparent=1, disposal=2)
    return gif((1, 1), [(0, 0, 0)], gif_frame((0, 0, 13_000, 13_000), b"", control))


HOSTILE = {
    "inflating texts": (png_of_inflating_texts, "undecodable_image"),
    "inflating profile": (png_of_inflating_profile, "undecodable_image"),
    "comments of one byte": (gif_of_one_byte_comments, "image_too_large"),
    "disposed giant frame": (gif_of_disposed_giant_frame, "image_too_large"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_small_files_built_to_grow(kind, tmp_path):
    build, expected = HOSTILE[kind]

    outcome, grown_bytes = growth(build(), tmp_path, COMPOSITED)

    assert outcome == expected
    limit_bytes = 200_000_000 if kind == "disposed giant frame" else 50_000_000
    assert grown_bytes < limit_bytes
