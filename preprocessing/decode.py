"""File bytes → upright 8-bit RGB or grey image."""

import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from preprocessing.errors import (
    FileTooLarge,
    ImageRejected,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImage,
)
from preprocessing.limits import DecodeLimits, MeteredReader, check_decode_cost, check_image_size
from preprocessing.spec import DecodeRules

# Pillow's limit of 64 Mi counts characters: one emoji per text makes each take 4 bytes of memory.
# The limit can only be set for the whole process.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024
# Pillow warns about each damaged EXIF entry; a block of 64 kB has up to 5,000.
warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")


OnStep = Callable[[str, Image.Image], None]
"""Receives the name of a finished preprocessing step ("decode", "colour", …) and its image."""


def ignore_step(step: str, image: Image.Image) -> None:
    """Do nothing."""


def decode_image(
    data: bytes, rules: DecodeRules, limits: DecodeLimits, on_step: OnStep = ignore_step
) -> Image.Image:
    """Decode the first frame of a JPEG, PNG, WebP, GIF or BMP file.

    Returns:
        8-bit image of mode `rules.mode`.

    Raises:
        FileTooLarge: More than `limits.max_bytes` bytes.
        UnsupportedImage: The file has another format.
        ImageTooLarge: More pixels, memory, scans, reads or time than the limits allow.
        UndecodableImage: The file is empty, damaged, truncated or invalid.
    """
    image: Image.Image = read_image(data, rules, limits)
    on_step("decode", image)
    turn = upright_turn(image) if rules.exif_orientation else None
    image = to_colour_mode(image, rules)  # frees the file and its decoder before the turn
    on_step("colour", image)
    if turn is not None:
        image = image.transpose(turn)
        for key in _METADATA:  # so that no later step turns it again
            image.info.pop(key, None)
        on_step("orient", image)
    return image


# ------------------------------------------------------------------- bytes → pixels as stored

Container = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]  # as Pillow names its formats


def container_of(data: bytes) -> Container | None:
    """Return the container that the first bytes show, or None if it is not supported.

    File names and declared content types are ignored because they may be wrong.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    return None


def webp_canvas_size(data: bytes) -> tuple[int, int] | None:
    """Return the (width, height) that a WebP file declares, or None if its header is damaged.

    Needed because Pillow allocates the canvas while it opens the file.
    Layout: RFC 9649, sections 2.5 to 2.7.
    """
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        width_less_1 = int.from_bytes(data[24:27], "little")
        height_less_1 = int.from_bytes(data[27:30], "little")
        return width_less_1 + 1, height_less_1 + 1
    if chunk == b"VP8L" and len(data) >= 25:
        (packed,) = struct.unpack_from("<I", data, 21)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


class JpegFile(JpegImageFile):
    """JPEG reader that does not parse the EXIF block while it reads the header.

    Pillow 13.0 parses it for the resolution, which is not needed here, with a warning for each
    damaged entry.
    """

    def _read_dpi_from_exif(self) -> None:
        """Leave the resolution unknown."""

    def scan_count(self, data: bytes) -> int:
        """Return an upper bound for the scans in `data`, whose header has just been read."""
        start_of_scan = b"\xff\xda"  # ITU-T T.81, table B.1; 0xFF in coded data precedes 0x00
        scan_at = self.fp.tell() if self.fp else 0  # start of the first scan's coded data
        head_bytes = 4 + 1 + 2 * self.layers + 3  # marker, length, count, selectors, T.81 B.2.3
        head = data[max(scan_at - head_bytes, 0) : scan_at]
        has_all_components = head.startswith(start_of_scan) and head[4:5] == bytes([self.layers])
        if has_all_components and "progressive" not in self.info:
            return 1  # skips the count, which takes 25 µs per 30 kB
        return 1 + data.count(start_of_scan, scan_at)


# The plugin classes instead of Image.open, which would try other formats, hand a JPEG with an MPF
# block to the multi-picture plugin, and warn about sizes by Pillow's own limit.
_READERS: dict[Container, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
}


def read_image(data: bytes, rules: DecodeRules, limits: DecodeLimits) -> ImageFile.ImageFile:
    """Check a file against the limits and decode its pixels in their stored mode."""
    if len(data) > limits.max_bytes:
        raise FileTooLarge(f"the file has {len(data)} bytes, the limit is {limits.max_bytes}")
    if not data:
        raise UndecodableImage("the file is empty")
    container = container_of(data)
    if container is None:
        raise UnsupportedImage("the file is not a JPEG, PNG, WebP, GIF or BMP image")
    if container == "WEBP" and (size := webp_canvas_size(data)) is not None:
        check_image_size(size, limits)

    with _pillow_errors_rejected(container):
        image = _READERS[container](MeteredReader(data, limits))  # reads the header only
    check_image_size(image.size, limits)
    scans = image.scan_count(data) if isinstance(image, JpegFile) else 1
    check_decode_cost(image, len(data), scans, rules, limits)

    side = rules.shrink_jpeg_to_side
    if side is not None and isinstance(image, JpegFile):
        image.draft(image.mode, (side, side))
    if image.mode == "L":
        # A GIF frame with a plain grey palette of its own has the global palette in Pillow 13.0,
        # and load() would make it a palette image of mode "L".
        image.palette = None
    # Only once: after a failed load(), a second call succeeds with a half decoded image.
    with _pillow_errors_rejected(container):
        # Training code often sets this to True; truncated files would then be classified.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        image.load()
    del image.filename  # empty, as the bytes have no name: user code must not decide by it
    return image


@contextmanager
def _pillow_errors_rejected(container: str | None) -> Iterator[None]:
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, OverflowError,
    # MemoryError and more on hostile bytes, so everything is caught.
    try:
        yield
    except ImageRejected:
        raise
    except Image.DecompressionBombError as error:  # a GIF frame beyond Pillow's own limit
        raise ImageTooLarge("the image declares more pixels than the service reads") from error
    except Exception as error:
        raise UndecodableImage(f"the file is not one complete {container} image") from error


# ------------------------------------------------------------------- any mode → RGB or grey


def to_colour_mode(image: Image.Image, rules: DecodeRules) -> Image.Image:
    """Convert a decoded image to `rules.mode`.

    Pillow's conversions apply: palette entries are looked up, CMYK is (255 - C)(255 - K) / 255,
    1-bit is 0 or 255, 16-bit colour keeps the high byte, ICC profiles are not applied.

    Args:
        image: Loaded image of any mode.
        rules: Target mode, and the rules for alpha and 16-bit grey.

    Returns:
        8-bit image of mode `rules.mode`; `image` itself if nothing changes.

    Raises:
        UndecodableImage: The palette or the transparency of the file is damaged.
    """
    # Pillow parses the palette and the transparency only here, so damage shows up here.
    with _pillow_errors_rejected(image.format):
        transparent = image.mode in ("RGBA", "LA") or "transparency" in image.info
        if rules.alpha != "drop" and transparent:
            image = _composite(image, rules.alpha, rules.grey16)
        elif image.mode.startswith("I") and rules.grey16 == "scale":
            image = _high_byte(image)
        # Otherwise convert() warns when it drops the transparency of a palette.
        image.info.pop("transparency", None)
        # convert() copies even if nothing changes.
        return image if image.mode == rules.mode else image.convert(rules.mode)


def _composite(
    image: Image.Image, colour: Literal["white", "black"], grey16: Literal["scale", "clip"]
) -> Image.Image:
    """Return the image over a colour, in RGB."""
    if image.mode.startswith("I"):
        opaque = np.asarray(image) != image.info["transparency"]
        mask = Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
        image = (_high_byte(image) if grey16 == "scale" else image).convert("RGB")
    else:
        image = mask = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(image, mask=mask)
    return canvas


def _high_byte(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits as Pillow scales 16-bit colour: the low byte is dropped."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


# ------------------------------------------------------------------- EXIF or XMP orientation

_ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # keys of Image.info
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns a loaded image upright, by the rules of `ImageOps.exif_transpose`.

    None if the image is upright or its metadata is damaged.
    """
    # Damaged metadata raises SyntaxError, struct.error, ValueError, TypeError and more.
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return None
