"""How much memory the decode of a file takes at its peak, estimated from its header."""

from PIL import ImageFile

from preprocessing.containers import Container

_MEMORY_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}


def decode_memory_bytes(source: ImageFile.ImageFile, container: Container) -> int:
    """Estimate the peak memory of decode and colour conversion, in bytes.

    Args:
        source: Opened file, not loaded.
        container: Its kind.
    """
    width, height = source.size
    return width * height * 8
