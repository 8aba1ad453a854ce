"""Measures preprocessing: time against bare Pillow, pixels against torchvision.

`python -m benchmarks.preprocessing` measures, writes benchmarks/results/preprocessing.json and
the tables of docs/preprocessing.md. `--tables` only writes the tables of the stored run. Needs
the shared test data. simplejpeg and OpenCV are compared where they are installed.
"""

import argparse
import datetime
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import this_commit, this_machine
from benchmarks.preprocessing_decoders import available_decoders
from benchmarks.preprocessing_differences import differences
from benchmarks.preprocessing_report import DecoderRun, Result, Shrink, Timing, write_tables
from benchmarks.preprocessing_shrink import shrink_difference
from preprocessing import (
    DecodeLimits,
    DecodeRules,
    PreprocessingSpec,
    SpecPreprocessing,
    decode_image,
    to_input,
)
from preprocessing.transform import centre_crop_box, shorter_side_size

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "images" / "photos"
RESULT = ROOT / "benchmarks" / "results" / "preprocessing.json"
LIMITS = DecodeLimits()
PREPROCESSING = SpecPreprocessing(PreprocessingSpec.imagenet())
PACKAGES = ("pillow", "numpy", "torch", "torchvision", "simplejpeg", "opencv-python-headless")
SHRINK_SIDES = (256, 512)
Task = Callable[[], object]


def photos() -> dict[str, tuple[bytes, int]]:
    """(file, rounds) of the three sizes; the smaller ones are made from the photo of 12 MP."""
    original = (PHOTOS / "cranes_12mp.jpg").read_bytes()
    with Image.open(BytesIO(original)) as image:
        small, medium = (_jpeg(image.resize(size)) for size in ((500, 375), (1632, 1224)))
    return {"0.2 MP": (small, 400), "2 MP": (medium, 80), "12 MP": (original, 20)}


def _jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def interleaved_ms(tasks: dict[str, Task], rounds: int) -> dict[str, tuple[float, ...]]:
    """CPU time of each task once a round, in turn: a busy machine is as busy for all of them."""
    samples: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(rounds + 2):
        for name, task in tasks.items():
            started = time.thread_time()
            task()
            if round_ >= 2:  # the first ones fill caches
                samples[name].append((time.thread_time() - started) * 1e3)
    return {name: tuple(times) for name, times in samples.items()}


def step_tasks(data: bytes) -> dict[str, Task]:
    """The steps and the whole, ours and bare Pillow's, by "step/whose"."""
    decoded = _bare_decode(data)
    size = shorter_side_size(decoded.size, 256)
    resized = decoded.resize(size, Image.Resampling.BILINEAR)
    return {
        "decode/bare": partial(_bare_decode, data),
        "decode/ours": partial(decode_image, data, DecodeRules(), LIMITS),
        "resize/bare": partial(decoded.resize, size, Image.Resampling.BILINEAR),
        "resize/ours": partial(PREPROCESSING.resize, decoded),
        "crop/bare": partial(_bare_crop, resized),
        "crop/ours": partial(PREPROCESSING.to_input, resized),
        "all/bare": lambda: _bare_crop(_bare_decode(data).resize(size, Image.Resampling.BILINEAR)),
        "all/ours": partial(to_input, data, PREPROCESSING, LIMITS),
    }


def _bare_decode(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def _bare_crop(image: Image.Image) -> object:
    return np.asarray(image.crop(centre_crop_box(image.size, (224, 224))))


def timings() -> list[Timing]:
    """Times of each step for each size."""
    return [
        Timing(image=name, step=step.split("/")[0], whose=step.split("/")[1], samples_ms=samples)
        for name, (data, rounds) in photos().items()
        for step, samples in interleaved_ms(step_tasks(data), rounds).items()
    ]


def shrinks() -> list[Shrink]:
    """Full and shrinking preprocessing of the photos of 8 to 16 MP."""
    return [run for photo in sorted(PHOTOS.glob("*.jpg")) for run in _shrinks_of(photo)]


def _shrinks_of(photo: Path) -> Iterator[Shrink]:
    data = photo.read_bytes()
    chosen = {str(side): _shrinking(side) for side in SHRINK_SIDES} | {"full": PREPROCESSING}
    samples = interleaved_ms(
        {name: partial(to_input, data, each, LIMITS) for name, each in chosen.items()}, 15
    )
    for side in SHRINK_SIDES:
        yield Shrink(
            photo=photo.name,
            side=side,
            full_ms=samples["full"],
            shrunk_ms=samples[str(side)],
            max_difference=shrink_difference(data, chosen[str(side)], LIMITS),
        )


def _shrinking(side: int) -> SpecPreprocessing:
    decode = DecodeRules(shrink_jpeg_to_side=side)
    return SpecPreprocessing(PreprocessingSpec.imagenet().model_copy(update={"decode": decode}))


def decoder_runs() -> list[DecoderRun]:
    """Other JPEG decoders: time and largest difference to Pillow."""
    runs = []
    for name, (data, rounds) in photos().items():
        decoders = available_decoders()
        samples = interleaved_ms(
            {decoder: partial(call, data) for decoder, call in decoders.items()},
            rounds,
        )
        reference = decoders["Pillow"](data).astype(np.int16)
        runs += [
            DecoderRun(
                decoder=decoder,
                image=name,
                samples_ms=samples[decoder],
                max_difference=int(np.abs(call(data) - reference).max()),
            )
            for decoder, call in decoders.items()
        ]
    return runs


def measured() -> Result:
    """One run of everything."""
    return Result(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=this_commit(ROOT),
        machine=this_machine(),
        load_average=os.getloadavg()[0],
        versions={name: version for name in PACKAGES if (version := _version(name))},
        timings=tuple(timings()),
        shrinks=tuple(shrinks()),
        decoders=tuple(decoder_runs()),
        differences=tuple(differences()),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(arguments: Sequence[str]) -> None:
    """Measure unless only the tables are asked for, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    if not parser.parse_args(arguments).tables:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(measured().model_dump_json(indent=1) + "\n")
    write_tables(Result.model_validate_json(RESULT.read_text()), ROOT / "docs" / "preprocessing.md")


if __name__ == "__main__":
    main(sys.argv[1:])
