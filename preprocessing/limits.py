"""Limits on the cost of decoding one file, and the checks that enforce them."""

import time
from io import BytesIO
from typing import Annotated

from PIL import ImageFile
from pydantic import BaseModel, ConfigDict, Field

from preprocessing.errors import ImageTooLarge
from preprocessing.spec import DecodeRules


class ImageLimits(BaseModel):
    """Limits on one image, independent of the length of its file. Set by the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_pixels: Annotated[int, Field(ge=1)] = Field(
        default=25_000_000,
        description="Pixels of one image (width times height), checked before decoding.",
    )
    max_aspect_ratio: Annotated[float, Field(ge=1)] = Field(
        default=150.0, description="Longer side of an image divided by its shorter side."
    )
    max_resized_pixels: Annotated[int, Field(ge=1)] = Field(
        default=10_000_000, description="Pixels of an image after the resize, checked before it."
    )
    max_decode_memory_bytes: Annotated[int, Field(ge=1)] = Field(
        default=300_000_000, description="Estimated memory of one decode."
    )
    max_decode_cpu_seconds: Annotated[float, Field(gt=0)] = Field(
        default=2.0, description="Seconds of processor time one decode may take."
    )
    max_decode_reads: Annotated[int, Field(ge=1)] = Field(
        default=500_000, description="Reads of one decode; ordinary files take tens to thousands."
    )
    max_jpeg_scans: Annotated[int, Field(ge=1)] = Field(
        default=64, description="Scans of one JPEG; each costs time by the size of the image."
    )


class DecodeLimits(ImageLimits):
    """Limits on one file, independent of the model.

    Attributes:
        max_bytes: Length of the file.
    """

    max_bytes: int = Field(default=20 * 2**20, ge=1)


def check_image_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Check the (width, height) that a file declares.

    Raises:
        ImageTooLarge: Too many pixels, or too high an aspect ratio.
    """
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


def check_resized_size(
    size: tuple[int, int], resized: tuple[int, int], limits: DecodeLimits
) -> None:
    """Check the (width, height) that an image of `size` would be resized to.

    A thin image within the pixel limit can become huge: 10×63498 pixels resized to a shorter side
    of 256 have 416 million pixels.

    Raises:
        ImageTooLarge: More than `limits.max_resized_pixels`, or a side of 0 pixels.
    """
    width, height = resized
    if width * height > limits.max_resized_pixels or 0 in resized:
        raise ImageTooLarge(
            f"the image of {size[0]}×{size[1]} would be resized to {width}×{height}, "
            f"the limit is {limits.max_resized_pixels} pixels"
        )


def check_decode_cost(
    image: ImageFile.ImageFile,
    file_bytes: int,
    scans: int,
    rules: DecodeRules,
    limits: DecodeLimits,
) -> None:
    """Check the scans and the estimated memory of an opened image before it is decoded.

    Raises:
        ImageTooLarge: Too many scans, or too much memory.
    """
    if scans > limits.max_jpeg_scans:
        raise ImageTooLarge(f"the JPEG has {scans} scans, the limit is {limits.max_jpeg_scans}")
    needed_bytes = decode_memory_bytes(image, file_bytes, scans, rules)
    if needed_bytes > limits.max_decode_memory_bytes:
        width, height = image.size
        raise ImageTooLarge(
            f"an image of this kind and {width}×{height} pixels takes {needed_bytes} bytes of "
            f"memory to decode, the limit is {limits.max_decode_memory_bytes}"
        )


_FIXED_BYTES = 8_000_000  # tables, text chunks (see decode.py), the resize of a common input
_FILE_COPIES = 2  # Pillow copies metadata blocks out of the file and joins them
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # Pillow's storage; others take 4
_WEBP_CANVAS_BYTES_PER_PIXEL = 8  # this and the previous frame, while the file is open
_DECODER_BYTES_PER_PIXEL = {
    "WEBP": _WEBP_CANVAS_BYTES_PER_PIXEL + 4,  # and the returned copy
    "GIF": 1,  # the start of the next frame
}
_HIGH_BYTE_BYTES_PER_PIXEL = 5  # copies made while 16-bit grey is converted to 8 bits
_COEFFICIENT_BYTES = 2


def decode_memory_bytes(
    image: ImageFile.ImageFile, file_bytes: int, scans: int, rules: DecodeRules
) -> int:
    """Estimate the peak memory of decode, colour conversion and orientation.

    An upper bound of the memory measured for each kind of file (docs/preprocessing.md).

    Args:
        image: Opened, not loaded.
        file_bytes: Length of the file.
        scans: Scans of a JPEG; 1 for other formats.
        rules: The conversions that follow.
    """
    stored = _BYTES_PER_PIXEL.get(image.mode, 4)
    decoding = _DECODER_BYTES_PER_PIXEL.get(str(image.format), 0)
    held = _WEBP_CANVAS_BYTES_PER_PIXEL if image.format == "WEBP" else decoding

    result = 4 if rules.mode == "RGB" else 1
    wide_grey = _HIGH_BYTE_BYTES_PER_PIXEL if image.mode.startswith("I") else 0
    if rules.alpha != "drop" and (image.mode in ("RGBA", "LA") or "transparency" in image.info):
        as_rgba = 0 if image.mode == "RGBA" else 4
        canvas = 4
        converting = wide_grey + as_rgba + canvas + (0 if rules.mode == "RGB" else result)
    elif image.mode == rules.mode:
        converting = result if rules.exif_orientation else 0
    else:
        converting = wide_grey + result

    width, height = image.size
    pixels_bytes = width * height * (stored + max(decoding, held + converting))
    if scans > 1:  # libjpeg holds the coefficients of the whole image until the last scan
        coefficients = len(image.getbands()) * _COEFFICIENT_BYTES
        pixels_bytes = max(pixels_bytes, width * height * (stored + coefficients))
    return _FIXED_BYTES + _FILE_COPIES * file_bytes + pixels_bytes


# Reading the clock takes 2 µs, and a JPEG header takes 40 reads, so most small reads skip it.
_BLOCK_BYTES = 4096
_READS_PER_CLOCK = 64


class MeteredReader(BytesIO):
    """File bytes that can be read until the budget of one decode is used up.

    Decoders read their input piece by piece, so a file that takes too long is stopped at its next
    read. Time is the thread's CPU time, which does not depend on the load of the machine. The
    number of reads bounds the memory that Pillow's Python code allocates per block (a GIF comment
    in blocks of one byte takes 45 times its size).
    """

    def __init__(self, data: bytes, limits: DecodeLimits) -> None:
        super().__init__(data)
        self._limits = limits
        self._reads_left = limits.max_decode_reads
        self._end_s = time.thread_time() + limits.max_decode_cpu_seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like `BytesIO`.

        Raises:
            ImageTooLarge: The budget is used up.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ImageTooLarge(
                f"the image takes more than {self._limits.max_decode_reads} reads to decode"
            )
        is_block = size is None or not 0 <= size < _BLOCK_BYTES
        check_clock = is_block or self._reads_left % _READS_PER_CLOCK == 0
        if check_clock and time.thread_time() > self._end_s:
            raise ImageTooLarge(
                f"the image takes more than {self._limits.max_decode_cpu_seconds:g} s to decode"
            )
        return super().read(size)
