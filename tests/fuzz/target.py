"""The code under fuzzing: one input, decoded and preprocessed under rules it picks itself."""

import time
import zlib
from typing import Final

from preprocessing import DecodeLimits, DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing
from preprocessing import to_input as file_to_input
from preprocessing.errors import ImageRejected

# Small pictures are as good at finding bugs, and a hundred times as many are tried.
LIMITS = DecodeLimits(max_pixels=2_000_000, max_resized_pixels=1_000_000)
MAX_CPU_SECONDS = 2 * LIMITS.max_decode_cpu_seconds
_MODES: Final = ("RGB", "L")
_ALPHAS: Final = ("drop", "white", "black")


class TooSlow(Exception):
    """One input took more time than the limits promise."""


def preprocessing_of(choice: int) -> SpecPreprocessing:
    """Preprocessing number `choice`; the rules repeat after 48."""
    rules = DecodeRules(
        mode=_MODES[choice % 2],
        exif_orientation=bool(choice // 2 % 2),
        alpha=_ALPHAS[choice // 4 % 3],
        grey16="clip" if choice // 12 % 2 else "scale",
        shrink_jpeg_to_side=24 if choice // 24 % 2 else None,
    )
    return SpecPreprocessing(PreprocessingSpec(decode=rules, resize=Resize(size=24), crop=21))


def run_once(data: bytes) -> bool:
    """Preprocess one input. Returns whether it was a good picture.

    Raises:
        Exception: A finding: anything but an input or a rejected image.
    """
    preprocessing = preprocessing_of(zlib.crc32(data))
    started = time.thread_time()
    try:
        array = file_to_input(data, preprocessing, LIMITS)
        if array.shape != preprocessing.input_shape:
            raise TypeError(f"input has shape {array.shape}")
        good = True
    except ImageRejected:
        good = False
    if (seconds := time.thread_time() - started) > MAX_CPU_SECONDS:
        raise TooSlow(f"{seconds:.1f} s")
    return good
