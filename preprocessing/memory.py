"""The memory that the decode of a file takes at its peak, estimated from its header."""

from PIL import ImageFile

from preprocessing.rules import DecodeRules

_FIXED_BYTES = 8_000_000  # tables, text chunks (see readers), the resize of a common input
_FILE_COPIES = 2  # metadata blocks are cut out of the file, and joined
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # Pillow's storage; others take 4
_WEBP_CANVAS_BYTES_PER_PIXEL = 8  # of this and of the last frame, as long as the file is open
_DECODER_BYTES_PER_PIXEL = {
    "WEBP": _WEBP_CANVAS_BYTES_PER_PIXEL + 4,  # and the copy that is handed out
    "GIF": 1,  # what the next frame would start from
}
_HIGH_BYTE_BYTES_PER_PIXEL = 5  # copies of a 16-bit picture on its way to 8 bits
_COEFFICIENT_BYTES = 2


def decode_memory_bytes(
    image: ImageFile.ImageFile, file_bytes: int, scans: int, rules: DecodeRules
) -> int:
    """Estimate the highest memory of decode, colour conversion and turn.

    An upper bound for what was measured on each kind of file (docs/preprocessing.md).

    Args:
        image: Opened, not loaded.
        file_bytes: Length of the file.
        scans: Of a JPEG; 1 for others.
        rules: What the picture is converted to.
    """
    stored = _BYTES_PER_PIXEL.get(image.mode, 4)
    decoding = _DECODER_BYTES_PER_PIXEL.get(str(image.format), 0)
    held = _WEBP_CANVAS_BYTES_PER_PIXEL if image.format == "WEBP" else decoding
    converting = held + _converting(image, rules)
    width, height = image.size
    pixels = width * height * (stored + max(decoding, converting))
    if scans > 1:  # libjpeg keeps the coefficients of the whole picture until it is decoded
        coefficients = len(image.getbands()) * _COEFFICIENT_BYTES
        pixels = max(pixels, width * height * (stored + coefficients))
    return _FIXED_BYTES + _FILE_COPIES * file_bytes + pixels


def _converting(image: ImageFile.ImageFile, rules: DecodeRules) -> int:
    """Bytes per pixel of the pictures made after the decode, beside the stored one."""
    result = 4 if rules.mode == "RGB" else 1
    wide_grey = _HIGH_BYTE_BYTES_PER_PIXEL if image.mode.startswith("I") else 0
    if rules.alpha != "drop" and (image.mode in ("RGBA", "LA") or "transparency" in image.info):
        as_rgba = 0 if image.mode == "RGBA" else 4
        canvas = 4
        return wide_grey + as_rgba + canvas + (0 if rules.mode == "RGB" else result)
    if image.mode == rules.mode:
        return result if rules.exif_orientation else 0
    return wide_grey + result
