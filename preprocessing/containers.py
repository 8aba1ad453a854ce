"""The kinds of image file that are read, told apart by their first bytes."""

import struct
from typing import Literal

Container = Literal["jpeg", "png", "webp", "gif", "bmp"]

JPEG_START_OF_SCAN = b"\xff\xda"  # ITU-T T.81, table B.1; 0xFF in coded data is followed by 0x00


def container_of(data: bytes) -> Container | None:
    """Name the container, or None for anything that is not read.

    File names and declared content types play no part: they lie.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"BM"):
        return "bmp"
    return None


def webp_canvas_size(data: bytes) -> tuple[int, int] | None:
    """Read the (width, height) a WebP file declares, or None where its header is damaged.

    Pillow allocates the canvas while it opens the file, so its size is needed before.
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


def jpeg_scan_count(data: bytes, components: int, scan_at: int, *, progressive: bool) -> int:
    """Count the scans of a JPEG file that a decoder reads.

    Args:
        data: The file.
        components: Colour components the frame declares.
        scan_at: Where the coded data of the first scan begin.
        progressive: Whether the frame is progressive.
    """
    head_bytes = 4 + 1 + 2 * components + 3  # marker, length, count, selectors, T.81 B.2.3
    head = data[max(scan_at - head_bytes, 0) : scan_at]
    whole = head.startswith(JPEG_START_OF_SCAN) and head[4:5] == bytes([components])
    if whole and not progressive:
        return 1  # the first scan has all components, and counting takes 25 µs per 30 kB
    return 1 + data.count(JPEG_START_OF_SCAN, scan_at)
