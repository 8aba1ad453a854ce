"""The EXIF or XMP orientation of a file → what turns its picture upright."""

import re
import struct

from PIL import Image

_ORIENTATION_TAG = 0x0112  # Exif 2.32, table 4
_FORMATS = {1: "B", 3: "H", 4: "I"}  # TIFF 6.0 field types BYTE, SHORT, LONG
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
    """What turns a loaded picture upright; None where it is upright, or metadata are damaged.

    Looks where Pillow's `ImageOps.exif_transpose` looks: the EXIF block, ImageMagick's text
    form of it, then XMP. It does not call it: `Image.getexif` parses all entries, raises what
    it likes, and warns of each one that is damaged.
    """
    try:
        orientation = _from_exif(_exif_block(image))
    # Damaged metadata; a TypeError where a PNG has a text called "exif".
    except (struct.error, ValueError, IndexError, AttributeError, TypeError):
        orientation = None
    return _UPRIGHT.get(orientation or _from_xmp(image) or 1)


def turned_upright(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    """Turn a picture and forget its metadata, so that nobody turns it a second time."""
    turned = image.transpose(turn)
    for key in _METADATA:
        turned.info.pop(key, None)
    return turned


def _exif_block(image: Image.Image) -> bytes:
    block = image.info.get("exif")
    if block is None:
        text = image.info.get("Raw profile type exif", "")  # three lines of head, then hex
        block = bytes.fromhex("".join(text.split("\n")[3:]))
    return re.sub(rb"^(Exif\0\0){1,2}", b"", block)


def _from_exif(block: bytes) -> int | None:
    """Read the orientation from the first directory of a TIFF structure (TIFF 6.0, section 2)."""
    if not block.startswith((b"II", b"MM")):
        return None
    order = "<" if block.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(order + "I", block, 4)
    (entries,) = struct.unpack_from(order + "H", block, directory)
    found = None
    for entry in range(entries):
        at = directory + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(order + "HHI", block, at)
        if tag == _ORIENTATION_TAG and kind in _FORMATS and count == 1:
            (found,) = struct.unpack_from(order + _FORMATS[kind], block, at + 8)
    return found


def _from_xmp(image: Image.Image) -> int | None:
    packet = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', packet)
    return int(match[1]) if match else None
