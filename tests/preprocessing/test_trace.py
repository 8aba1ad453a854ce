"""The trace shows each step that was taken, and ends with the input itself."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing import (
    DecodeRules,
    PreprocessingSpec,
    Resize,
    SpecPreprocessing,
    load_preprocessing,
    to_input,
    trace,
)
from preprocessing.__main__ import main
from preprocessing.errors import ImageTooLarge
from tests.preprocessing.encoders import PNG_GREY, exif_orientation, png
from tests.preprocessing.files import LIMITS, encoded, noise

Capture = pytest.CaptureFixture[str]
OWN = """
import numpy as np
from preprocessing import DecodeRules

class Own:
    decode = DecodeRules()
    input_shape = (4, 4, 3)
    input_dtype = "float32"
    mean = None
    std = None

    def to_input(self, image):
        return np.asarray(image.resize((4, 4)), np.float32)
"""


def test_each_step_has_its_picture_size_mode_and_time() -> None:
    grey = noise(30, 20, channels=1)
    file = encoded(grey, "PNG", exif=b"Exif\0\0" + exif_orientation(6))
    spec = PreprocessingSpec(
        decode=DecodeRules(exif_orientation=True), resize=Resize(size=8), crop=6
    )
    preprocessing = SpecPreprocessing(spec)

    steps = trace(file, preprocessing, LIMITS)

    assert [(step.name, step.size, step.mode) for step in steps] == [
        ("decode", (30, 20), "L"),
        ("colour", (30, 20), "RGB"),
        ("orient", (20, 30), "RGB"),
        ("resize", (8, 12), "RGB"),
        ("crop", (6, 6), "RGB"),
        ("input", (6, 6), "uint8"),
    ]
    assert [step.picture and step.picture.size for step in steps] == [step.size for step in steps]
    assert all(step.milliseconds >= 0 for step in steps)
    assert np.array_equal(np.asarray(steps[-1].picture), to_input(file, preprocessing, LIMITS))


def test_steps_that_change_nothing_are_left_out_and_a_grey_input_is_a_picture() -> None:
    grey = SpecPreprocessing(PreprocessingSpec(decode=DecodeRules(mode="L"), crop=6))

    steps = trace(encoded(noise(6, 6, channels=1), "PNG"), grey, LIMITS)

    assert [step.name for step in steps] == ["decode", "input"]
    assert steps[-1].picture is not None
    assert steps[-1].picture.mode == "L"


def test_a_class_of_the_user_is_one_step_and_its_floats_have_no_picture(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    preprocessing = load_preprocessing(tmp_path / "own.py", "Own")

    steps = trace(encoded(noise(9, 9), "PNG"), preprocessing, LIMITS)

    assert [(step.name, step.size, step.mode) for step in steps] == [
        ("decode", (9, 9), "RGB"),
        ("input", (4, 4), "float32"),
    ]
    assert steps[-1].picture is None


def test_a_picture_that_would_become_a_giant_is_refused() -> None:
    tall = png((1, 150), 8, PNG_GREY, [b"\0"] * 150)

    with pytest.raises(ImageTooLarge):
        trace(tall, SpecPreprocessing(PreprocessingSpec.imagenet(resize=400)), LIMITS)


def test_the_command_prints_the_steps_and_saves_the_pictures(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(noise(40, 30).convert("CMYK"), "JPEG"))
    (tmp_path / "spec.yaml").write_text("{resize: {size: 8}, crop: 6}")
    photo, yaml, steps = (str(tmp_path / name) for name in ("photo.jpg", "spec.yaml", "steps"))

    assert main([photo, "--spec", yaml, "--save", steps]) == 0

    names = ["decode", "colour", "resize", "crop", "input"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "photo.jpg")
    assert lines[1].split()[:5] == ["decode", "40", "×", "30", "CMYK"]
    assert [line.split()[0] for line in lines[1:]] == names
    saved = sorted(path.name for path in (tmp_path / "steps").iterdir())
    assert saved == [f"photo.{number}.{name}.png" for number, name in enumerate(names)]
    with Image.open(tmp_path / "steps" / "photo.4.input.png") as picture:
        assert picture.size == (6, 6)


def test_the_command_names_the_error_of_each_file_and_goes_on(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "bad.png").write_bytes(b"none")
    (tmp_path / "good.png").write_bytes(encoded(noise(9, 9), "PNG"))
    files = [str(tmp_path / name) for name in ("bad.png", "missing.png", "good.png")]

    status = main([*files, "--class", f"{tmp_path / 'own.py'}:Own"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert "bad.png: unsupported_media_type" in lines[0]
    assert "missing.png: FileNotFoundError" in lines[1]
    assert lines[-1].split()[:5] == ["input", "4", "×", "4", "float32"]


@pytest.mark.parametrize("option", [["--class", "Own"], ["--spec", "nowhere.yaml"]])
def test_the_command_reports_what_it_cannot_use(option: list[str], capsys: Capture) -> None:
    assert main(["any.png", *option]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
