"""What the model sees: the picture after each step, with its cost."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from preprocessing.decode import decode_steps
from preprocessing.interface import Preprocessing
from preprocessing.pipeline import check_resized_size, image_to_input
from preprocessing.rules import DecodeLimits
from preprocessing.transform import SpecPreprocessing


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the preprocessing of one file.

    Attributes:
        name: "decode", "colour", "orient", "resize", "crop" or "input".
        picture: The picture after the step; None for an input that is not an 8-bit picture.
        size: (width, height) after the step.
        mode: Pillow mode, or the dtype of the input.
        milliseconds: Time the step took.
    """

    name: str
    picture: Image.Image | None
    size: tuple[int, int]
    mode: str
    milliseconds: float


def trace(data: bytes, preprocessing: Preprocessing, limits: DecodeLimits) -> tuple[Step, ...]:
    """Preprocess a file and keep the picture after each step that changed it.

    The last step is always "input"; with a spec its time is the copy into an array, with a
    class of the user it is all of `to_input`.

    Raises:
        ImageRejected: What is wrong with the file, as for `decode_image`.
        PreprocessingBug: As for `to_input`.
    """
    steps = list(_timed(decode_steps(data, preprocessing.decode, limits)))
    image = _last_picture(steps)
    check_resized_size(image.size, preprocessing, limits)
    if isinstance(preprocessing, SpecPreprocessing):
        steps += _timed(preprocessing.steps(image))
        started = time.perf_counter()
        array: np.ndarray = preprocessing.as_input(_last_picture(steps))
    else:
        started = time.perf_counter()
        array = image_to_input(image, preprocessing)
    steps.append(_input_step(array, (time.perf_counter() - started) * 1e3))
    return tuple(steps)


def _timed(steps: Iterable[tuple[str, Image.Image]]) -> Iterator[Step]:
    started = time.perf_counter()
    for name, picture in steps:
        elapsed_ms = (time.perf_counter() - started) * 1e3
        yield Step(
            name=name,
            picture=picture,
            size=picture.size,
            mode=picture.mode,
            milliseconds=elapsed_ms,
        )
        started = time.perf_counter()


def _last_picture(steps: list[Step]) -> Image.Image:
    picture = steps[-1].picture
    if picture is None:
        raise TypeError("decode and spec steps always have a picture")
    return picture


def _input_step(array: np.ndarray, milliseconds: float) -> Step:
    height, width, channels = array.shape
    picture = None
    if array.dtype == np.uint8 and channels in (1, 3):
        picture = Image.fromarray(array.squeeze(2) if channels == 1 else array)
    return Step(
        name="input",
        picture=picture,
        size=(width, height),
        mode=str(array.dtype),
        milliseconds=milliseconds,
    )
