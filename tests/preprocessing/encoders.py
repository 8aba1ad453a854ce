"""Small PNG, BMP and GIF encoders written from the specifications, independent of Pillow."""

import struct
import zlib
from collections.abc import Sequence

Rows = Sequence[bytes]
Colours = Sequence[tuple[int, int, int]]
PNG_GREY, PNG_RGB, PNG_PALETTE, PNG_GREY_ALPHA, PNG_RGB_ALPHA = 0, 2, 3, 4, 6


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(size: tuple[int, int], depth: int, colour: int, rows: Rows, extra: bytes = b"") -> bytes:
    """Encode an unfiltered PNG of (width, height); `extra` are complete chunks before the data."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def bmp(size: tuple[int, int], bits: int, data: bytes, palette: bytes = b"", rle: int = 0) -> bytes:
    """Encode a BMP. `data` are bottom-up rows padded to 4 bytes; the palette is BGR0."""
    offset = 14 + 40 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, *size, 1, bits, rle, len(data), 0, 0, len(palette) // 4, 0
    )
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + header + palette + data


def gif_frame(
    box: tuple[int, int, int, int],
    indices: bytes,
    control: bytes = b"",
    palette: Colours = (),
) -> bytes:
    """Encode an uncompressed image block at (left, top, width, height); indices are below 128.

    A clear code before every 100 indices keeps the code width at 8 bits.
    """
    codes = b"".join(b"\x80" + indices[at : at + 100] for at in range(0, len(indices), 100))
    codes += b"\x81"
    parts = [codes[at : at + 255] for at in range(0, len(codes), 255)]
    blocks = b"".join(bytes([len(part)]) + part for part in parts)
    flags = 0x86 if palette else 0
    table = _gif_palette(palette) if palette else b""
    block = b"," + struct.pack("<HHHHB", *box, flags) + table
    return control + block + b"\x07" + blocks + b"\0"


def _gif_palette(colours: Colours) -> bytes:
    return b"".join(map(bytes, colours)).ljust(3 * 128, b"\0")


def gif_control(transparent: int | None = None, disposal: int = 0) -> bytes:
    flags = disposal << 2 | (transparent is not None)
    return b"!\xf9\x04" + struct.pack("<BHBB", flags, 10, transparent or 0, 0)


def gif(size: tuple[int, int], palette: Colours, *frames: bytes) -> bytes:
    screen = struct.pack("<HHBBB", *size, 0xF6, 0, 0)
    return b"GIF89a" + screen + _gif_palette(palette) + b"".join(frames) + b";"


def exif_orientation(value: int) -> bytes:
    """Encode a TIFF structure with one entry: orientation, a SHORT."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)
    return b"II" + struct.pack("<HIH", 42, 8, 1) + entry + struct.pack("<I", 0)


def jpeg_with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """Insert a segment at the start of a JPEG."""
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment + jpeg[2:]


def jpeg_without_segment(jpeg: bytes, marker: int) -> bytes:
    """Remove a JPEG's segments with a marker before the first scan."""
    kept, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] != marker:
            kept += jpeg[at:end]
        at = end
    return kept + jpeg[at:]
