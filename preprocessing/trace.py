"""What the model sees: the image after each step, with its cost."""

import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from preprocessing.decode import read_image, to_colour_mode, turn_upright, upright_turn
from preprocessing.limits import DecodeLimits, check_resized_size
from preprocessing.transform import SpecPreprocessing
from preprocessing.user_class import Preprocessing, image_to_input


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the preprocessing of one file.

    Attributes:
        name: "decode", "colour", "orient", "resize", "crop" or "input".
        picture: The image after the step; None for an input that is not an 8-bit image.
        size: (width, height) after the step.
        mode: Pillow mode, or the dtype of the input.
        milliseconds: Time the step took.
        array: The input itself, (H, W, C); None for other steps.
    """

    name: str
    picture: Image.Image | None
    size: tuple[int, int]
    mode: str
    milliseconds: float
    array: np.ndarray | None = None


def trace(data: bytes, preprocessing: Preprocessing, limits: DecodeLimits) -> tuple[Step, ...]:
    """Preprocess a file as `to_input` does and keep the image after each step that changed it.

    The last step is always "input"; with a spec its time is the copy into an array, with a
    class of the user it is all of `to_input`.

    Raises:
        ImageRejected: What is wrong with the file, as for `decode_image`.
        PreprocessingBug: As for `to_input`.
    """
    rules = preprocessing.decode
    steps: list[Step] = []
    started = time.perf_counter()

    def keep(name: str, after: Image.Image) -> Image.Image:
        nonlocal started
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if not steps or after is not steps[-1].picture:
            steps.append(
                Step(
                    name=name,
                    picture=after,
                    size=after.size,
                    mode=after.mode,
                    milliseconds=elapsed_ms,
                )
            )
        started = time.perf_counter()
        return after

    image = keep("decode", read_image(data, rules, limits))
    turn = upright_turn(image) if rules.exif_orientation else None
    image = keep("colour", to_colour_mode(image, rules))
    if turn is not None:
        image = keep("orient", turn_upright(image, turn))
    if isinstance(preprocessing, SpecPreprocessing):
        check_resized_size(image.size, preprocessing.resized_size(image.size), limits)
        image = keep("resize", preprocessing.resize(image))
        image = keep("crop", preprocessing.crop(image))
        array: np.ndarray = preprocessing.as_input(image)
    else:
        array = image_to_input(image, preprocessing)
    elapsed_ms = (time.perf_counter() - started) * 1e3
    steps.append(_input_step(array, elapsed_ms))
    return tuple(steps)


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
        array=array,
    )
