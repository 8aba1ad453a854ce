"""The trace shows each step that was taken, and ends with the input itself."""

from pathlib import Path

import numpy as np

from preprocessing import (
    DecodeRules,
    PreprocessingSpec,
    Resize,
    SpecPreprocessing,
    to_input,
    trace,
)
from tests.preprocessing.encoders import exif_orientation
from tests.preprocessing.files import LIMITS, encoded, noise
from tests.preprocessing.test_own_class import FLOAT, load


def test_each_step_has_its_picture_size_mode_and_time() -> None:
    grey = noise(30, 20, channels=1)
    file = encoded(grey, "PNG", exif=b"Exif\0\0" + exif_orientation(6))
    spec = PreprocessingSpec(
        decode=DecodeRules(exif_orientation=True), resize=Resize(size=8), crop=6
    )
    preprocessing = SpecPreprocessing(spec)

    steps = trace(file, preprocessing, LIMITS)

    found = [(step.name, step.picture and step.picture.size, step.mode) for step in steps]
    assert found == [
        ("decode", (30, 20), "L"),
        ("colour", (30, 20), "RGB"),
        ("orient", (20, 30), "RGB"),
        ("resize", (8, 12), "RGB"),
        ("crop", (6, 6), "RGB"),
        ("input", (6, 6), "uint8"),
    ]
    assert all((step.milliseconds or -1) > 0 for step in steps)
    assert np.array_equal(np.asarray(steps[-1].picture), to_input(file, preprocessing, LIMITS))


def test_steps_that_change_nothing_are_left_out_and_a_grey_input_is_a_picture() -> None:
    grey = SpecPreprocessing(PreprocessingSpec(decode=DecodeRules(mode="L"), crop=6))

    steps = trace(encoded(noise(6, 6, channels=1), "PNG"), grey, LIMITS)

    assert [step.name for step in steps] == ["decode", "input"]
    assert steps[-1].picture is not None
    assert steps[-1].picture.mode == "L"


def test_a_class_of_the_user_is_one_step_and_its_floats_have_no_picture(tmp_path: Path) -> None:
    own = load(tmp_path, FLOAT.replace("asarray", "float32"))

    steps = trace(encoded(noise(9, 9, channels=1), "PNG"), own, LIMITS)

    assert [(step.name, step.mode) for step in steps] == [("decode", "L"), ("input", "float32")]
    assert steps[-1].picture is None
    assert steps[-1].array is not None
    assert steps[-1].array.shape == (2, 3, 1)
