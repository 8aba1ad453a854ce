"""A short, repeatable fuzz run."""

import os
import random
import time
import zlib
from pathlib import Path

import pytest

from preprocessing import DecodeLimits, DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing
from preprocessing import to_input as file_to_input
from preprocessing.errors import ImageRejected
from tests.fuzz.mutations import mutated, seeds

FILES = int(os.environ.get("FUZZ_FILES", "2000"))
# Small images find as many bugs, and a hundred times as many can be tried.
LIMITS = DecodeLimits(max_pixels=2_000_000, max_resized_pixels=1_000_000)
pytestmark = [
    pytest.mark.all,
    # Pillow warns about damaged files.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def rules_of(data: bytes) -> DecodeRules:
    """Choose decode rules by the file's checksum, so that all combinations are tried."""
    choice = zlib.crc32(data)
    return DecodeRules(
        mode="L" if choice % 2 else "RGB",
        exif_orientation=bool(choice // 2 % 2),
        alpha="drop" if choice // 4 % 2 else "white",
        grey16="clip" if choice // 8 % 2 else "scale",
        shrink_jpeg_to_side=24 if choice // 16 % 2 else None,
    )


def test_mutated_files_are_images_or_client_errors_in_time(tmp_path: Path) -> None:
    chance, pool, good = random.Random(20), seeds(), 0
    for _ in range(FILES):
        data = mutated(chance.choice(pool), chance, pool)
        (tmp_path / "last").write_bytes(data)  # in case it kills the process
        spec = PreprocessingSpec(decode=rules_of(data), resize=Resize(size=24), crop=21)
        started = time.thread_time()
        try:
            array = file_to_input(data, SpecPreprocessing(spec), LIMITS)
            assert array.shape == spec.input_shape
            good += 1
        except ImageRejected:
            pass
        assert time.thread_time() - started < 2 * LIMITS.max_decode_cpu_seconds

    assert 0 < good < FILES
