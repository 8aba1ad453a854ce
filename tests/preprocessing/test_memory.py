"""No file within the limits makes a process grow by more than 300 MB.

Each file is decoded in a separate process, and the kernel reports its peak memory.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.preprocessing.encoders import PNG_RGB, gif, gif_control, gif_frame, png, png_chunk
from tests.preprocessing.files import encoded, noise
from tests.programs import run_python

QUICK = {"progressive jpeg", "gif", "inflating texts", "disposed giant frame"}
"""The others run in `make test-all` only."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"
    ),
]
# Resets the kernel's high-water mark and prints the outcome and the growth in bytes. The decode
# rules are those that take most memory.
PROGRAM = """
import re, sys
from pathlib import Path
from preprocessing import *
from preprocessing.errors import ImageRejected
from tests.preprocessing.files import imagenet
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
rules = DecodeRules(alpha="white", exif_orientation=True)
spec = imagenet(decode=rules)
small, data = (Path(sys.argv[1], name).read_bytes() for name in ("small", "file"))
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


def picture(mode: str, megapixels: int) -> Image.Image:
    """Return an image of noisy blocks."""
    side = int((megapixels * 1_000_000) ** 0.5)
    random = np.random.default_rng(0).integers(0, 256, (99, 99, len(mode)), np.uint8)
    bands = [Image.fromarray(random[..., band]) for band in range(len(mode))]
    small = Image.merge(mode, bands)
    return small.resize((side, side), Image.Resampling.NEAREST)


def png_of_inflating_texts() -> bytes:
    """Encode 60 texts of a million characters in 64 kB; an emoji makes each character 4 bytes."""
    text = zlib.compress(("a" * 1_000_000 + "\N{GRINNING FACE}").encode())
    texts = b"".join(png_chunk(b"iTXt", b"k%d\0\1\0\0\0" % n + text) for n in range(60))
    return png((1, 1), 8, PNG_RGB, [b"\0\0\0"], extra=texts)


def png_of_inflating_profile() -> bytes:
    profile = zlib.compress(bytes(64_000_000))
    return png((1, 1), 8, PNG_RGB, [b"\0\0\0"], extra=png_chunk(b"iCCP", b"x\0\0" + profile))


def gif_of_disposed_giant_frame() -> bytes:
    control = gif_control(transparent=1, disposal=2)
    return gif((1, 1), [(0, 0, 0)], gif_frame((0, 0, 13_000, 13_000), b"", control))


FILES: dict[str, tuple[Callable[[], bytes], str, int]] = {
    # The largest files that are accepted.
    "progressive jpeg": (
        lambda: encoded(picture("RGB", 24), "JPEG", quality=30, subsampling=0, progressive=True),
        "ok",
        300,
    ),
    "cmyk jpeg": (lambda: encoded(picture("CMYK", 24), "JPEG", quality=30), "ok", 300),
    "rgba png": (lambda: encoded(picture("RGBA", 24), "PNG", compress_level=1), "ok", 300),
    "rgba webp": (lambda: encoded(picture("RGBA", 17), "WEBP", method=0, quality=30), "ok", 300),
    "gif": (lambda: encoded(picture("L", 24), "GIF"), "ok", 300),
    # Small files built to take much memory.
    "inflating texts": (png_of_inflating_texts, "undecodable_image", 50),
    "inflating profile": (png_of_inflating_profile, "undecodable_image", 50),
    "disposed giant frame": (gif_of_disposed_giant_frame, "image_too_large", 200),
}


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.all) for kind in FILES],
)
def test_a_process_grows_less_than_the_limit(kind: str, tmp_path: Path) -> None:
    build, expected, limit_mb = FILES[kind]
    (tmp_path / "file").write_bytes(build())
    (tmp_path / "small").write_bytes(encoded(noise(60, 60), "PNG"))

    result = run_python(PROGRAM, tmp_path)

    assert result.returncode == 0, result.stderr
    outcome, grown_bytes = result.stdout.split()
    assert outcome == expected
    assert int(grown_bytes) < limit_mb * 1_000_000
