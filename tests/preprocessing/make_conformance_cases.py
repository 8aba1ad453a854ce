"""Writes the files that `preprocessing.conformance` compares.

`python -m tests.preprocessing.make_conformance_cases` writes them.
Lossless files are made by our own encoders from pseudo-random bytes and are the same on every
machine. JPEG and WebP files that the archive already has are kept as they are, because another
version of the encoders would write other bytes. A published case is never changed: a changed
file needs another name, since artifacts hold the digest of what it became.
"""

import hashlib
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from PIL import Image

from preprocessing.conformance import CASES_FILE
from tests.preprocessing.encoders import (
    PNG_GREY,
    PNG_GREY_ALPHA,
    PNG_PALETTE,
    PNG_RGB,
    PNG_RGBA,
    bmp,
    exif_orientation,
    gif,
    gif_control,
    gif_frame,
    interlaced_png,
    jpeg_with_segment,
    jpeg_without_segment,
    png,
    png_chunk,
    zlib_stored,
)
from tests.preprocessing.files import encoded

Size = tuple[int, int]
Named = Iterator[tuple[str, bytes]]

CHANNELS = {PNG_GREY: 1, PNG_RGB: 3, PNG_PALETTE: 1, PNG_GREY_ALPHA: 2, PNG_RGBA: 4}
ICC_PROFILE = b"not a profile: it is never applied"
XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'


def noise(seed: str, count: int) -> bytes:
    """Pseudo-random bytes, the same on every machine and with every version of Python."""
    return hashlib.shake_256(seed.encode()).digest(count)


def gradient(size: Size) -> Image.Image:
    """RGB picture of two ramps and a checkerboard: smooth as a photo, with sharp edges."""
    width, height = size
    return Image.frombytes(
        "RGB",
        size,
        bytes(
            value
            for y in range(height)
            for x in range(width)
            for value in (255 * x // width, 255 * y // height, 255 * ((x // 8 + y // 8) % 2))
        ),
    )


def noise_picture(mode: str, size: Size) -> Image.Image:
    """Picture of pseudo-random samples."""
    count = size[0] * size[1] * Image.getmodebands(mode)
    return Image.frombytes(mode, size, noise(mode, count))


def noise_png(size: Size, depth: int, colour: int, extra: bytes = b"", **options: object) -> bytes:
    row_bytes = (size[0] * depth * CHANNELS[colour] + 7) // 8
    data = noise(f"png {depth} {colour}", row_bytes * size[1])
    rows = [data[at : at + row_bytes] for at in range(0, len(data), row_bytes)]
    return png(size, depth, colour, rows, extra, pack=zlib_stored, **options)  # type: ignore[arg-type]


def png_cases() -> Named:
    palette = png_chunk(b"PLTE", noise("palette", 768))
    for depth in (1, 2, 4, 8, 16):
        yield f"png-grey{depth}", noise_png((21, 17), depth, PNG_GREY)
    for depth in (1, 2, 4, 8):
        short = png_chunk(b"PLTE", noise("palette", 3 << depth))
        yield f"png-palette{depth}", noise_png((19, 22), depth, PNG_PALETTE, short)
    for depth in (8, 16):
        yield f"png-rgb{depth}", noise_png((22, 18), depth, PNG_RGB)
        yield f"png-grey{depth}-alpha", noise_png((17, 21), depth, PNG_GREY_ALPHA)
        yield f"png-rgb{depth}-alpha", noise_png((21, 18), depth, PNG_RGBA)
        # The first pixel's colour is the transparent one.
        wide = depth // 8
        for name, colour in (("grey", PNG_GREY), ("rgb", PNG_RGB)):
            plain = noise(f"png {depth} {colour}", wide * CHANNELS[colour])
            samples = [plain[at : at + wide].rjust(2, b"\0") for at in range(0, len(plain), wide)]
            key = png_chunk(b"tRNS", b"".join(samples))
            yield f"png-{name}{depth}-one-transparent", noise_png((20, 17), depth, colour, key)
    opacities = png_chunk(b"tRNS", noise("opacities", 200))
    yield "png-palette8-alpha", noise_png((23, 20), 8, PNG_PALETTE, palette + opacities)
    single = png_chunk(b"tRNS", b"\xff\x00")
    colours = png_chunk(b"PLTE", noise("palette", 12))
    yield "png-palette2-one-transparent", noise_png((18, 19), 2, PNG_PALETTE, colours + single)
    yield "png-filters", noise_png((22, 19), 8, PNG_RGB, filters=(0, 1, 2, 3, 4))
    pixels = [[noise(f"{x} {y}", 3) for x in range(19)] for y in range(18)]
    yield "png-interlaced", interlaced_png(pixels, PNG_RGB, pack=zlib_stored)
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib_stored(ICC_PROFILE))
    gamma = png_chunk(b"gAMA", struct.pack(">I", 10_000))
    yield "png-profile-and-gamma", noise_png((18, 17), 8, PNG_RGB, profile + gamma)
    turned = png_chunk(b"eXIf", exif_orientation(6, ">"))
    yield "png-exif-orientation6", noise_png((19, 25), 8, PNG_RGB, turned)
    packet = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 8)
    yield "png-xmp-orientation8", noise_png((25, 19), 8, PNG_GREY, packet)
    block = b"Exif\0\0" + exif_orientation(3)
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    raw = png_chunk(b"tEXt", b"Raw profile type exif\0" + text)
    yield "png-imagemagick-orientation3", noise_png((23, 18), 8, PNG_GREY, raw)
    whole = noise_png((20, 20), 8, PNG_RGB)
    yield "png-bytes-after-end", whole + b"after the end"
    yield "png-cut-short", whole[:-100]
    yield "png-one-pixel", noise_png((1, 1), 8, PNG_RGB)
    yield "png-too-long", noise_png((2, 301), 8, PNG_GREY)


def input_cases() -> Named:
    """Sizes that scale up, down and not at all, with every rounding of resize and crop."""
    for width, height in ((7, 9), (29, 9), (9, 17), (256, 256)):
        yield f"{width}x{height}", noise_png((width, height), 1, PNG_GREY)
    two = png_chunk(b"PLTE", noise("two colours", 6))
    yield "289x301", noise_png((289, 301), 1, PNG_PALETTE, two)
    yield "rgb", noise_png((22, 18), 8, PNG_RGB)
    yield "grey", noise_png((19, 24), 8, PNG_GREY)


def bmp_cases() -> Named:
    palette = noise("bmp palette", 1024)
    for bits in (1, 4, 8):
        row_bytes = (21 * bits + 31) // 32 * 4
        data = noise(f"bmp {bits}", row_bytes * 17)
        yield f"bmp-palette{bits}", bmp((21, 17), bits, data, palette[: 4 << bits])
    two = b"\0\0\0\0\xff\xff\xff\0"
    yield "bmp-black-and-white", bmp((21, 17), 1, noise("bmp two", 4 * 17), two)
    for bits in (16, 24, 32):
        row_bytes = (19 * bits + 31) // 32 * 4
        yield f"bmp-rgb{bits}", bmp((19, 18), bits, noise(f"bmp {bits}", row_bytes * 18))
    yield "bmp-from-the-top", bmp((20, -17), 24, noise("bmp top", 60 * 17))
    runs = b"".join(bytes([5, value, 0, 4, *noise(str(value), 4), 0, 0]) for value in range(16))
    yield "bmp-run-lengths", bmp((9, 16), 8, runs + b"\0\1", palette, rle=1)


def gif_cases() -> Named:
    values = (noise(f"gif {index}", 3) for index in range(128))
    colours = [(red, green, blue) for red, green, blue in values]
    indices = bytes(value & 0x7F for value in noise("gif", 20 * 18))
    whole = (0, 0, 20, 18)
    second = gif_frame((3, 3, 5, 5), bytes(25))
    yield "gif", gif((20, 18), colours, gif_frame(whole, indices))
    yield "gif-animated", gif((20, 18), colours, gif_frame(whole, indices[::-1]), second)
    clear = gif_control(transparent=indices[0])
    yield "gif-transparent", gif((20, 18), colours, gif_frame(whole, indices, clear))
    yield "gif-interlaced", gif((20, 18), colours, gif_frame(whole, indices, interlace=True))
    yield "gif-small-frame", gif((26, 24), colours, gif_frame((4, 3, 20, 18), indices))
    grey = [(value,) * 3 for value in range(128)]
    yield "gif-grey", gif((20, 18), grey, gif_frame(whole, indices))
    yield "gif-grey-frame", gif((20, 18), colours, gif_frame(whole, indices, palette=grey))


def jpeg_cases() -> Named:
    colour = noise_picture("RGB", (23, 19))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        name = subsampling.replace(":", "")
        yield f"jpeg-{name}", encoded(gradient((37, 29)), "JPEG", subsampling=subsampling)
        yield (
            f"jpeg-{name}-progressive",
            encoded(colour, "JPEG", subsampling=subsampling, progressive=True, quality=90),
        )
    yield "jpeg-low-quality", encoded(gradient((45, 33)), "JPEG", quality=10)
    yield "jpeg-rgb-without-transform", encoded(colour, "JPEG", keep_rgb=True, quality=92)
    colour_file = encoded(colour, "JPEG")
    yield "jpeg-restarts", encoded(colour, "JPEG", restart_marker_blocks=2)
    yield "jpeg-grey", encoded(noise_picture("L", (22, 17)), "JPEG")
    yield "jpeg-grey-progressive", encoded(noise_picture("L", (17, 23)), "JPEG", progressive=True)
    cmyk = encoded(noise_picture("CMYK", (20, 19)), "JPEG", quality=95)
    yield "jpeg-cmyk", cmyk
    yield "jpeg-cmyk-without-adobe", jpeg_without_segment(cmyk, 0xEE)
    transform_at = cmyk.index(b"Adobe") + 11
    yield "jpeg-ycck", cmyk[:transform_at] + b"\2" + cmyk[transform_at + 1 :]
    small = encoded(gradient((26, 21)), "JPEG", quality=85)
    for orientation in range(1, 9):
        block = b"Exif\0\0" + exif_orientation(orientation, "<>"[orientation % 2])
        yield f"jpeg-exif-orientation{orientation}", jpeg_with_segment(small, 0xE1, block)
    packet = b"http://ns.adobe.com/xap/1.0/\0" + XMP % 6
    yield "jpeg-xmp-orientation6", jpeg_with_segment(small, 0xE1, packet)
    profile = b"ICC_PROFILE\0\1\1" + ICC_PROFILE
    yield "jpeg-profile", jpeg_with_segment(small, 0xE2, profile)
    yield "jpeg-cut-short", colour_file[:-100]  # within the coded data


def webp_cases() -> Named:
    colour = gradient((38, 31))
    clear = noise_picture("RGBA", (21, 18))
    block = b"Exif\0\0" + exif_orientation(5)
    yield "webp-lossy", encoded(colour, "WEBP", quality=80)
    yield "webp-lossy-alpha", encoded(clear, "WEBP", quality=70)
    yield "webp-lossless", encoded(colour, "WEBP", lossless=True)
    yield "webp-lossless-alpha", encoded(clear, "WEBP", lossless=True, exact=True)
    yield "webp-exif-orientation5", encoded(colour, "WEBP", quality=60, exif=block)
    file = BytesIO()
    colour.save(file, "WEBP", save_all=True, append_images=[colour.rotate(180)], quality=50)
    yield "webp-animated", file.getvalue()


def lossless_cases() -> dict[str, bytes]:
    """Files that do not depend on an encoder of others."""
    decoded = [*png_cases(), *bmp_cases(), *gif_cases(), ("text", b"not an image")]
    return {
        **{f"decode/{name}": data for name, data in decoded},
        **{f"input/{name}": data for name, data in input_cases()},
    }


def lossy_cases() -> dict[str, bytes]:
    """Files that the encoders of this Pillow write."""
    return {
        **{f"decode/{name}": data for name, data in (*jpeg_cases(), *webp_cases())},
        "input/jpeg-361x271": encoded(gradient((361, 271)), "JPEG", quality=60),
    }


def write(path: Path) -> None:
    """Write the archive, the files uncompressed and undated."""
    stored: dict[str, bytes] = {}
    if path.exists():
        with ZipFile(path) as archive:
            stored = {name: archive.read(name) for name in archive.namelist()}
    kept = {name: stored.get(name, data) for name, data in lossy_cases().items()}
    with ZipFile(path, "w") as archive:
        for name, data in (lossless_cases() | kept).items():
            archive.writestr(ZipInfo(name), data)


if __name__ == "__main__":
    write(CASES_FILE)
