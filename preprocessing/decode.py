"""File bytes → upright RGB or grey image."""

from collections.abc import Iterator

from PIL import Image, ImageFile

from preprocessing.colour import to_colour_mode
from preprocessing.containers import Container, container_of, webp_canvas_size
from preprocessing.errors import (
    FileTooLarge,
    ImageRejected,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImage,
)
from preprocessing.memory import decode_memory_bytes
from preprocessing.orientation import turned_upright, upright_turn
from preprocessing.readers import READERS, JpegFile, MeteredReader
from preprocessing.rules import DecodeLimits, DecodeRules


def decode_image(data: bytes, rules: DecodeRules, limits: DecodeLimits) -> Image.Image:
    """Decode the first frame of a JPEG, PNG, WebP, GIF or BMP file.

    Returns:
        8-bit image of mode `rules.mode`.

    Raises:
        FileTooLarge: More than `limits.max_bytes` bytes.
        UnsupportedImage: The bytes are of no kind that is read.
        ImageTooLarge: More pixels, memory, scans, reads or time than the limits allow.
        UndecodableImage: Empty, damaged, cut short or not understood.
    """
    for _, image in decode_steps(data, rules, limits):
        decoded = image
    return decoded


def decode_steps(
    data: bytes, rules: DecodeRules, limits: DecodeLimits
) -> Iterator[tuple[str, Image.Image]]:
    """Decode as `decode_image` does and yield (name, image) after each step that was needed."""
    container = _checked_container(data, limits)
    image: Image.Image = _loaded(_opened(data, container, rules, limits), container)
    turn = upright_turn(image) if rules.exif_orientation else None
    yield "decode", image

    coloured = _coloured(image, rules, container)
    if coloured is not image:
        image = coloured  # lets go of the file and its decoder before the next step
        yield "colour", image
    if turn is not None:
        yield "orient", turned_upright(image, turn)


def _checked_container(data: bytes, limits: DecodeLimits) -> Container:
    """Check what can be checked without Pillow."""
    if len(data) > limits.max_bytes:
        raise FileTooLarge(f"the file has {len(data)} bytes, the limit is {limits.max_bytes}")
    if not data:
        raise UndecodableImage("the file is empty")
    container = container_of(data)
    if container is None:
        raise UnsupportedImage("the file is not a JPEG, PNG, WebP, GIF or BMP image")
    if container == "webp" and (size := webp_canvas_size(data)) is not None:
        _check_size(size, limits)
    return container


def _opened(
    data: bytes, container: Container, rules: DecodeRules, limits: DecodeLimits
) -> ImageFile.ImageFile:
    """Read the header and check what it declares."""
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, OverflowError,
    # MemoryError and more on hostile bytes, so all calls into them catch everything.
    try:
        image = READERS[container](MeteredReader(data, limits))
    except ImageRejected:
        raise
    except Image.DecompressionBombError as error:  # a GIF frame beyond Pillow's own limit
        raise ImageTooLarge("the image declares more pixels than the service reads") from error
    except Exception as error:
        raise _undecodable(container) from error
    _check_size(image.size, limits)
    scans = image.scan_count(data) if isinstance(image, JpegFile) else 1
    if scans > limits.max_jpeg_scans:
        raise ImageTooLarge(f"the JPEG has {scans} scans, the limit is {limits.max_jpeg_scans}")
    _check_memory(decode_memory_bytes(image, len(data), scans, rules), image.size, limits)
    side = rules.shrink_jpeg_to_side
    if side is not None and isinstance(image, JpegFile):
        image.draft(image.mode, (side, side))
    return image


def _loaded(image: ImageFile.ImageFile, container: Container) -> ImageFile.ImageFile:
    """Decode the pixels, once: after a failed load() a second one would succeed, half decoded."""
    if image.mode == "L":
        # A GIF frame whose own palette is plain grey keeps that of the screen, and load() makes
        # it a palette image that calls itself grey (Pillow 13.0).
        image.palette = None
    try:
        image.load()
    except ImageRejected:
        raise
    except Exception as error:
        raise _undecodable(container) from error
    return image


def _coloured(image: Image.Image, rules: DecodeRules, container: Container) -> Image.Image:
    # What a file declares of palettes and transparency is used here for the first time.
    try:
        return to_colour_mode(image, rules)
    except Exception as error:
        raise _undecodable(container) from error


def _undecodable(container: Container) -> UndecodableImage:
    return UndecodableImage(f"the file is not one complete {container.upper()} image")


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


def _check_memory(needed_bytes: int, size: tuple[int, int], limits: DecodeLimits) -> None:
    if needed_bytes > limits.max_decode_memory_bytes:
        raise ImageTooLarge(
            f"an image of this kind and {size[0]}×{size[1]} pixels takes {needed_bytes} bytes of "
            f"memory to decode, the limit is {limits.max_decode_memory_bytes}"
        )
