"""Seeds and mutations of the fuzzer."""

import random
import struct
import zlib

from PIL import Image

from tests.preprocessing.encoders import exif_orientation, gif, gif_control, gif_frame
from tests.preprocessing.files import encoded, noise
from tests.shared_data import SHARED

MAX_SEED_BYTES = 60_000
_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_CHANGES = ("flip", "flip", "overwrite", "overwrite", "cut", "truncate", "repeat", "splice")


def seeds() -> list[bytes]:
    """Return small valid files of each kind, and the hostile corpus if it is on this machine."""
    image, grey = noise(37, 23), noise(37, 23, channels=1)
    exif = b"Exif\0\0" + exif_orientation(6)
    frame = gif_frame((0, 0, 3, 2), bytes(range(6)), gif_control(transparent=1, disposal=2))
    made = [
        encoded(image, "JPEG", exif=exif),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(grey, "JPEG"),
        encoded(image, "PNG", exif=exif),
        encoded(image.quantize(16), "PNG", transparency=3),
        encoded(Image.merge("LA", (grey, grey)), "PNG"),
        encoded(image.convert("1"), "PNG"),
        encoded(image, "WEBP", lossless=True, exif=exif),
        encoded(image, "WEBP", save_all=True, append_images=[image.rotate(180)]),
        encoded(image, "BMP"),
        encoded(image.quantize(16), "BMP"),
        gif((3, 2), [(n, n, n) for n in range(9)], frame, frame),
    ]
    corpus = (path.read_bytes() for path in sorted((SHARED / "broken").glob("*/*")))
    return made + [data for data in corpus if 0 < len(data) <= MAX_SEED_BYTES]


def mutated(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Apply one to six random changes."""
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = _changed(data, chance, others) or b"\0"
    return _with_checksums(data) if chance.random() < 0.7 else data


def _changed(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    change = chance.choice(_CHANGES)
    if change == "overwrite":
        return _overwritten(data, chance)
    if change == "splice":
        other = chance.choice(others)
        return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]
    at = chance.randrange(len(data))
    match change:
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case "cut":
            return data[:at] + data[at + chance.randrange(1, 64) :]
        case "repeat":
            piece = data[at : at + chance.randrange(1, 200)]
            return data[:at] + piece * chance.choice((2, 3, 50)) + data[at:]
    return data[:at]  # "truncate"


def _overwritten(data: bytes, chance: random.Random) -> bytes:
    value = chance.choice(_INTERESTING)
    kind = "I" if value > 0xFFFF else chance.choice("IH") if value > 0xFF else chance.choice("IHB")
    packed = struct.pack(chance.choice("<>") + kind, value)
    # Half of the time in the header.
    at = chance.randrange(min(len(data), 64) if chance.random() < 0.5 else len(data))
    return data[:at] + packed + data[at + len(packed) :]


def _with_checksums(data: bytes) -> bytes:
    """Update the chunk checksums of a PNG, so that its contents are decoded."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    fixed, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        fixed += data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return fixed + data[at:]
