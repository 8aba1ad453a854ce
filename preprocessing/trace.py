"""The image after each preprocessing step, with the time of the step."""

import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from preprocessing.limits import DecodeLimits
from preprocessing.transform import to_input
from preprocessing.user_class import Preprocessing


@dataclass(frozen=True)
class Step:
    """One step of the preprocessing of one file.

    Attributes:
        name: "decode", "colour", "orient", "resize", "crop" or "input".
        picture: The image after the step; None for an input that is not an 8-bit image.
        mode: Pillow mode, or the dtype of the input.
        milliseconds: Duration of the step; None if it was not measured.
        array: The input itself, (H, W, C); None for other steps.
    """

    name: str
    picture: Image.Image | None
    mode: str
    milliseconds: float | None
    array: np.ndarray | None = None


def trace(data: bytes, preprocessing: Preprocessing, limits: DecodeLimits) -> tuple[Step, ...]:
    """Preprocess a file as `to_input` does and record the image after each step that changed it.

    The last step is always "input": with a spec, the copy into an array; with a user's class,
    its whole `to_input`.

    Raises:
        ImageRejected: As for `decode_image`.
        PreprocessingBug: As for `to_input`.
    """
    steps: list[Step] = []
    started = time.perf_counter()

    def record(name: str, picture: Image.Image) -> None:
        nonlocal started
        milliseconds = (time.perf_counter() - started) * 1e3
        if not steps or picture is not steps[-1].picture:
            steps.append(Step(name, picture, picture.mode, milliseconds))
        started = time.perf_counter()

    array = to_input(data, preprocessing, limits, record)
    milliseconds = (time.perf_counter() - started) * 1e3
    is_picture = array.dtype == np.uint8 and array.shape[2] in (1, 3)
    pixels = array.squeeze(2) if array.shape[2] == 1 else array
    picture = Image.fromarray(pixels) if is_picture else None
    return (*steps, Step("input", picture, str(array.dtype), milliseconds, array))
