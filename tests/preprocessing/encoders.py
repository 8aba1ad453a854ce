"""Small encoders of PNG, BMP and GIF, written from their specifications and not with Pillow.

They give files whose pixels are known by construction.
"""

import struct
import zlib
from collections.abc import Callable, Sequence

Rows = Sequence[bytes]
Colours = Sequence[tuple[int, int, int]]
PNG_GREY, PNG_RGB, PNG_PALETTE, PNG_GREY_ALPHA, PNG_RGBA = 0, 2, 3, 4, 6
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(
    size: tuple[int, int],
    depth: int,
    colour: int,
    rows: Rows,
    extra: bytes = b"",
    interlace: int = 0,
    filters: Sequence[int] = (0,),
    pack: Callable[[bytes], bytes] = zlib.compress,
) -> bytes:
    """PNG of (width, height); `extra` are whole chunks before the data.

    Rows are written as they are, and declared as filtered by `filters`, used in turn.
    """
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    packed = pack(b"".join(bytes([filters[y % len(filters)]]) + row for y, row in enumerate(rows)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def zlib_stored(data: bytes) -> bytes:
    """zlib stream of stored blocks (RFC 1950 and 1951): the same bytes with every zlib."""
    blocks = [data[at : at + 65_535] for at in range(0, len(data), 65_535)]
    stored = b"".join(
        struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks, start=1)
    )
    return b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(data))


def interlaced_png(
    pixels: Sequence[Sequence[bytes]],
    colour: int,
    pack: Callable[[bytes], bytes] = zlib.compress,
) -> bytes:
    """8-bit Adam7 PNG of rows of pixels, each pixel its bytes."""
    height, width = len(pixels), len(pixels[0])
    rows = []
    for x0, y0, dx, dy in _ADAM7:
        for y in range(y0, height, dy):
            row = b"".join(pixels[y][x] for x in range(x0, width, dx))
            if row:
                rows.append(row)
    return png((width, height), 8, colour, rows, interlace=1, pack=pack)


def bmp(size: tuple[int, int], bits: int, data: bytes, palette: bytes = b"", rle: int = 0) -> bytes:
    """BMP with a 40-byte header. `data` are bottom-up rows, padded to 4 bytes; palette is BGR0."""
    offset = 14 + 40 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, *size, 1, bits, rle, len(data), 0, 0, len(palette) // 4, 0
    )
    return struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + header + palette + data


def gif_frame(
    box: tuple[int, int, int, int],
    indices: bytes,
    control: bytes = b"",
    interlace: bool = False,
    palette: Colours = (),
) -> bytes:
    """Image block at (left, top, width, height) with 128-colour indices and no compression.

    A clear code before every 100 indices keeps the code width at 8 bits.
    """
    codes = b"".join(b"\x80" + indices[at : at + 100] for at in range(0, len(indices), 100))
    codes += b"\x81"
    blocks = b"".join(
        bytes([len(codes[at : at + 255])]) + codes[at : at + 255]
        for at in range(0, len(codes), 255)
    )
    flags = (0x40 if interlace else 0) | (0x86 if palette else 0)
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


def exif_orientation(value: int, order: str = "<") -> bytes:
    """TIFF structure with one entry: orientation, a SHORT."""
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, value, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 1) + entry + struct.pack(order + "I", 0)


def jpeg_with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """JPEG with one more segment right after its start."""
    return (
        jpeg[:2]
        + b"\xff"
        + bytes([marker])
        + struct.pack(">H", len(content) + 2)
        + content
        + jpeg[2:]
    )


def jpeg_without_segment(jpeg: bytes, marker: int) -> bytes:
    """JPEG without the segments of a marker that stand before the first scan."""
    kept, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] != marker:
            kept += jpeg[at:end]
        at = end
    return kept + jpeg[at:]
