"""Measures preprocessing against bare Pillow calls: `python -m tools.benchmarks.preprocessing`.

Prints Markdown tables: CPU time of each step, and what decoding a JPEG at a fraction of its size
saves. The images are synthetic, see `images`; the two sides alternate, so that a busy machine is as
busy for both.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from statistics import median

import numpy as np
from PIL import Image

from preprocessing import (
    DecodeLimits,
    DecodeRules,
    PreprocessingSpec,
    SpecPreprocessing,
    decode_image,
    to_input,
)
from tools.benchmarks.images import synthetic_photo
from tools.benchmarks.report import table

LIMITS = DecodeLimits()
ROUNDS = {(500, 375): 200, (1632, 1224): 40, (4000, 3000): 10}
"""(width, height) to the number of rounds."""
SHRINK_SIDES = (256, 512)


def medians_ms(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median CPU time of each task, run in turn."""
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(rounds + 2):
        for name, task in tasks.items():
            started_s = time.thread_time()
            task()
            if round_ >= 2:  # the first ones fill caches
                samples[name].append((time.thread_time() - started_s) * 1e3)
    return {name: median(times) for name, times in samples.items()}


def bare_decode(data: bytes) -> Image.Image:
    """Decode as a notebook does."""
    image = Image.open(BytesIO(data))
    image.load()
    return image


def bare_input(image: Image.Image) -> object:
    """Resize and crop as a notebook does."""
    scale = 256 / min(image.size)
    width, height = (int(side * scale) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))


def rows(size: tuple[int, int], rounds: int) -> Iterator[list[str]]:
    """Measure one size; yield the rows of the table."""
    file = BytesIO()
    synthetic_photo(size, seed=0).save(file, "JPEG", quality=90)
    data = file.getvalue()
    image = bare_decode(data)
    full = SpecPreprocessing(PreprocessingSpec.imagenet())
    tasks: dict[str, Callable[[], object]] = {
        "decode, Pillow": partial(bare_decode, data),
        "decode": partial(decode_image, data, DecodeRules(), LIMITS),
        "resize and crop, Pillow": partial(bare_input, image),
        "resize and crop": partial(full.to_input, image),
        "all, Pillow": lambda: bare_input(bare_decode(data)),
        "all": partial(to_input, data, full, LIMITS),
    }
    for side in SHRINK_SIDES:
        decode = DecodeRules(shrink_jpeg_to_side=side)
        spec = PreprocessingSpec.imagenet().model_copy(update={"decode": decode})
        tasks[f"all, shrink_jpeg_to_side {side}"] = partial(
            to_input, data, SpecPreprocessing(spec), LIMITS
        )
    for name, time_ms in medians_ms(tasks, rounds).items():
        yield [f"{size[0]}×{size[1]}", name, f"{time_ms:.2f}"]


if __name__ == "__main__":
    found = [row for size, rounds in ROUNDS.items() for row in rows(size, rounds)]
    print(table(["JPEG", "step", "median ms"], found))
