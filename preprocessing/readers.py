"""Pillow's readers of the accepted containers, held to a budget of time and reads."""

import time
from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageFile, PngImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from preprocessing.containers import Container, jpeg_scan_count
from preprocessing.errors import ImageTooLarge
from preprocessing.rules import DecodeLimits

# Pillow's 64 MiB count characters: one emoji in each text makes that 256 MiB of memory. The
# limit can only be set for the whole process.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024

# The clock costs 2 µs, and the header of a JPEG takes 40 reads; so not every small read asks it.
_BLOCK_BYTES = 4096
_READS_PER_CLOCK = 64


class JpegFile(JpegImageFile):
    """JPEG whose EXIF block is not parsed while the header is read.

    Pillow parses it for the resolution, which nobody asks for here, and writes a warning of its
    own for each entry it skips: a block of 64 kB makes 5,000 of them (Pillow 13.0).
    """

    _header_is_read = False

    def _open(self) -> None:
        super()._open()
        self._header_is_read = True

    def getexif(self) -> Image.Exif:
        """Parse the EXIF block, as Pillow does, once the header has been read."""
        return super().getexif() if self._header_is_read else Image.Exif()

    def scan_count(self, data: bytes) -> int:
        """Count the scans of this file, whose header has just been read from `data`."""
        progressive = "progressive" in self.info
        scan_at = self.fp.tell() if self.fp else 0
        return jpeg_scan_count(data, self.layers, scan_at, progressive=progressive)


# The plugin classes, not Image.open: it would try other formats, hand a JPEG with an MPF block
# to the multi-picture plugin, and warn about sizes on a scale that is not ours.
READERS: dict[Container, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "jpeg": JpegFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
}


class MeteredReader(BytesIO):
    """File bytes that can be read as long as the budget of one decode lasts.

    Decoders take their input piece by piece, so a file built to keep one busy is given up at
    its next read. Time is that of the thread on the CPU: it does not depend on how busy the
    machine is. The number of reads bounds what Pillow's Python code collects block by block
    (a GIF comment in blocks of one byte takes 45 times its size).
    """

    def __init__(self, data: bytes, limits: DecodeLimits) -> None:
        super().__init__(data)
        self._limits = limits
        self._reads_left = limits.max_decode_reads
        self._end_s = time.thread_time() + limits.max_decode_cpu_seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `BytesIO` does.

        Raises:
            ImageTooLarge: The budget is used up.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ImageTooLarge(
                f"the image takes more than {self._limits.max_decode_reads} reads to decode"
            )
        is_block = size is None or not 0 <= size < _BLOCK_BYTES
        time_is_due = is_block or self._reads_left % _READS_PER_CLOCK == 0
        if time_is_due and time.thread_time() > self._end_s:
            raise ImageTooLarge(
                f"the image takes more than {self._limits.max_decode_cpu_seconds:g} s to decode"
            )
        return super().read(size)
