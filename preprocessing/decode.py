"""File bytes → upright RGB or grey image."""

import time
from collections.abc import Callable, Iterator
from io import BytesIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from errors import (
    BodyTooLarge,
    ClientVisibleError,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedMediaType,
)
from preprocessing.colour import to_colour_mode
from preprocessing.containers import Container, container_of, jpeg_scan_count, webp_canvas_size
from preprocessing.memory import decode_memory_bytes
from preprocessing.rules import DecodeLimits, DecodeRules

# The plugin classes, not Image.open: it would try other formats, hand a JPEG with an MPF block
# to the multi-picture plugin, and warn about sizes on a scale that is not ours.
_READERS: dict[Container, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
}
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, table 4
# EXIF orientation → what turns the stored picture upright; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, rules: DecodeRules, limits: DecodeLimits) -> Image.Image:
    """Decode the first frame of a JPEG, PNG, WebP, GIF or BMP file.

    Returns:
        8-bit image of mode `rules.mode`.

    Raises:
        BodyTooLarge: More than `limits.max_bytes` bytes.
        UnsupportedMediaType: The bytes are of no kind that is read.
        ImageTooLarge: More pixels, memory, scans or time than the limits allow.
        UndecodableImage: Empty, damaged, cut short or not understood.
    """
    for _, image in decode_steps(data, rules, limits):
        upright = image
    return upright


def decode_steps(
    data: bytes, rules: DecodeRules, limits: DecodeLimits
) -> Iterator[tuple[str, Image.Image]]:
    """Decode as `decode_image` does and yield (name, image) after each step that was needed."""
    container = _checked_container(data, limits)
    source = _opened(data, container, limits)
    _check_size(source.size, limits)
    _check_memory(source, container, limits)
    if rules.shrink_jpeg_to_side is not None and isinstance(source, JpegImageFile):
        side = rules.shrink_jpeg_to_side
        source.draft(source.mode, (side, side))
    _load(source)
    yield "decode", source

    image = to_colour_mode(source, rules)
    if image is not source:
        yield "colour", image
    if rules.exif_orientation and (turn := _turn(source)) is not None:
        yield "orient", image.transpose(turn)


def _checked_container(data: bytes, limits: DecodeLimits) -> Container:
    if len(data) > limits.max_bytes:
        raise BodyTooLarge(f"the file has {len(data)} bytes, the limit is {limits.max_bytes}")
    if not data:
        raise UndecodableImage("the file is empty")
    container = container_of(data)
    if container is None:
        raise UnsupportedMediaType("the file is not a JPEG, PNG, WebP, GIF or BMP image")
    if container == "webp" and (size := webp_canvas_size(data)) is not None:
        _check_size(size, limits)
    if container == "jpeg" and (scans := jpeg_scan_count(data)) > limits.max_jpeg_scans:
        raise ImageTooLarge(f"the JPEG has {scans} scans, the limit is {limits.max_jpeg_scans}")
    return container


def _opened(data: bytes, container: Container, limits: DecodeLimits) -> ImageFile.ImageFile:
    """Read the header. Its decoder reads on through the same deadline."""
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, OverflowError,
    # MemoryError and more on hostile bytes, so both calls into them catch everything.
    try:
        return _READERS[container](_DeadlineReader(data, limits.max_decode_seconds))
    except ClientVisibleError:
        raise
    except Image.DecompressionBombError as error:  # a GIF frame beyond Pillow's own limit
        raise ImageTooLarge("the image declares more pixels than the service reads") from error
    except Exception as error:
        raise _undecodable(container) from error


def _load(source: ImageFile.ImageFile) -> None:
    """Decode the pixels, once: after a failed load() a second one would succeed, half decoded."""
    try:
        source.load()
    except ClientVisibleError:
        raise
    except Exception as error:
        raise _undecodable(source.format) from error


def _undecodable(container: str | None) -> UndecodableImage:
    return UndecodableImage(f"the file is not one complete {str(container).upper()} image")


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Check a declared (width, height)."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {width}×{height} = {width * height} pixels, "
            f"the limit is {limits.max_pixels}"
        )
    if max(size) > limits.max_aspect_ratio * min(size):
        raise ImageTooLarge(
            f"the image is {width}×{height}, one side may be at most "
            f"{limits.max_aspect_ratio:g} times the other"
        )


def _check_memory(source: ImageFile.ImageFile, container: Container, limits: DecodeLimits) -> None:
    needed = decode_memory_bytes(source, container)
    if needed > limits.max_decode_memory_bytes:
        width, height = source.size
        raise ImageTooLarge(
            f"a {width}×{height} image of this kind takes {needed} bytes of memory to decode, "
            f"the limit is {limits.max_decode_memory_bytes}"
        )


def _turn(source: ImageFile.ImageFile) -> Image.Transpose | None:
    """Read the orientation of a loaded file. Damaged metadata is no orientation."""
    # For PNG, getexif() before load() would load, and swallowing its exception would let a
    # damaged picture pass as good. The parser of EXIF raises as freely as those of pixels.
    try:
        return _UPRIGHT.get(source.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return None


class _DeadlineReader(BytesIO):
    """File bytes that can no longer be read once the time for the decode has passed.

    Decoders take their input piece by piece, so a file built to keep one busy is given up
    at its next read.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `BytesIO` does.

        Raises:
            ImageTooLarge: The time is over.
        """
        if time.monotonic() > self._deadline:
            raise ImageTooLarge(f"the image takes more than {self._seconds:g} s to decode")
        return super().read(size)
