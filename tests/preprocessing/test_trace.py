"""The trace has every step that changed the image, and ends with the input."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing import DecodeRules, PreprocessingSpec, Resize, SpecPreprocessing, to_input, trace
from tests.preprocessing.encoders import exif_orientation
from tests.preprocessing.files import LIMITS, encoded, noise
from tests.preprocessing.test_own_class import FLOAT, GOOD, load


def test_each_step_has_a_name_picture_mode_and_time() -> None:
    grey = noise(30, 20, channels=1)
    file = encoded(grey, "PNG", exif=b"Exif\0\0" + exif_orientation(6))
    spec = PreprocessingSpec(
        decode=DecodeRules(exif_orientation=True), resize=Resize(size=8), crop=6
    )
    preprocessing = SpecPreprocessing(spec)

    steps = trace(file, preprocessing, LIMITS)

    actual = [(step.name, step.picture and step.picture.size, step.mode) for step in steps]
    assert actual == [
        ("decode", (30, 20), "L"),
        ("colour", (30, 20), "RGB"),
        ("orient", (20, 30), "RGB"),
        ("resize", (8, 12), "RGB"),
        ("crop", (6, 6), "RGB"),
        ("input", (6, 6), "uint8"),
    ]
    assert all((step.milliseconds or -1) > 0 for step in steps)
    assert np.array_equal(np.asarray(steps[-1].picture), to_input(file, preprocessing, LIMITS))


@pytest.mark.parametrize(
    ("source", "dtype", "has_picture"), [(GOOD, "uint8", True), (FLOAT, "float32", False)]
)
def test_a_users_class_is_one_step_and_float_inputs_have_no_picture(
    tmp_path: Path, source: str, dtype: str, has_picture: bool
) -> None:
    steps = trace(encoded(noise(9, 9, channels=1), "PNG"), load(tmp_path, source), LIMITS)

    assert [(step.name, step.mode) for step in steps] == [("decode", "L"), ("input", dtype)]
    assert (steps[-1].picture is not None) == has_picture
    assert steps[-1].array is not None
    assert steps[-1].array.shape == (2, 3, 1)
