"""A user's own class: loading it from its file, and checking it against its declaration."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

from preprocessing import Preprocessing, PreprocessingBug, SpecError, load_preprocessing, to_input
from preprocessing.errors import ClientError, OperatorError, UndecodableImage
from tests.preprocessing.files import LIMITS, encoded, noise

GOOD = """
import numpy as np
from preprocessing import DecodeRules

class Halved:
    decode = DecodeRules(mode="L")
    input_shape = (2, 3, 1)
    input_dtype = "uint8"
    mean = (0.5,)
    std = (0.25,)

    def to_input(self, image):
        return np.asarray(image.resize((3, 2)))[..., None]
"""
FLOAT = (
    GOOD.replace('"uint8"', '"float32"')
    .replace("(0.5,)", "None")
    .replace("(0.25,)", "None")
    .replace("np.asarray", "np.float32")
)
PHOTO = encoded(noise(12, 8), "PNG")


def load(folder: Path, source: str) -> Preprocessing:
    (folder / "mine.py").write_text(source)
    return load_preprocessing(folder / "mine.py", "Halved")


def with_body(body: str) -> str:
    """Return the class with another statement in place of its `return`."""
    return GOOD[: GOOD.index("        return")] + f"        {body}\n"


def test_two_classes_of_the_same_name_keep_their_own_behaviour(tmp_path: Path) -> None:
    first = load(tmp_path, GOOD)
    second = load(tmp_path, FLOAT.replace("[..., None]", "[:, ::-1, None] / 255"))

    expected = np.asarray(noise(12, 8).convert("L").resize((3, 2)))[..., None]
    np.testing.assert_array_equal(to_input(PHOTO, first, LIMITS), expected)
    mirrored = to_input(PHOTO, second, LIMITS)
    np.testing.assert_array_equal(mirrored, expected[:, ::-1].astype(np.float32) / 255)
    assert mirrored.flags.c_contiguous
    assert (first.input_spec.mean, second.input_spec.mean) == ((0.5,), None)


def test_a_class_may_keep_state_although_threads_share_it(tmp_path: Path) -> None:
    source = with_body("self.small = image.resize((3, 2)); time.sleep(0.002); return self.result()")
    source = source.replace("import numpy as np", "import time\nimport numpy as np")
    result = "    def result(self):\n        return np.asarray(self.small)[..., None]\n"
    preprocessing = load(tmp_path, source + result)
    photos = [encoded(noise(12, 8, seed=seed), "PNG") for seed in range(40)]
    expected = [to_input(photo, preprocessing, LIMITS) for photo in photos]

    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda photo: to_input(photo, preprocessing, LIMITS), photos))

    np.testing.assert_array_equal(actual, expected)


def test_a_truncated_image_is_refused_even_if_the_class_tells_pillow_to_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = load(tmp_path, GOOD)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # when it is imported or runs
    whole = encoded(noise(64, 64), "JPEG")

    with pytest.raises(UndecodableImage, match="not one complete JPEG"):
        to_input(whole[: len(whole) // 2], preprocessing, LIMITS)


@pytest.mark.parametrize(
    ("find", "replace", "message"),
    [
        ("class Halved", "class Other", "no such class"),
        ("class Halved:", "class Halved\n:", "importing it raised SyntaxError"),
        ("    def to_input", "    def __init__(self, size): ...\n    def to_input", "no arguments"),
        ("DecodeRules(mode", "dict(mode", "decode must be a preprocessing.DecodeRules"),
        ("(2, 3, 1)", "(2, 3)", "shape.2: Field required"),
        ("(2, 3, 1)", "(2, 3, 0)", "shape.2: Input should be greater than 0"),
        ("(2, 3, 1)", "(3, 28, 28)", r"shape \(3, 28, 28\) looks like \(C, H, W\)"),
        ('"uint8"', '"float64"', "dtype: .* 'uint8' or 'float32'"),
        ("(0.5,)", "(0.5, 0.5)", r"mean must have 1 numbers, one a channel .*, got \(0.5, 0.5\)"),
        ("(0.5,)", "(float('nan'),)", "mean.0: Input should be a finite number"),
        ("    mean = (0.5,)\n    std = (0.25,)\n", "", r"lacks mean, std; usual .* std = \(0\.229"),
        ('"uint8"', '"float32"', "mean and std must be None with float32"),
        ("def to_input", "def input", "to_input"),
    ],
)
def test_an_unusable_class_is_reported_in_one_line(
    tmp_path: Path, find: str, replace: str, message: str
) -> None:
    assert find in GOOD

    with pytest.raises(SpecError, match=message) as caught:
        load(tmp_path, GOOD.replace(find, replace))

    assert str(caught.value).startswith(str(tmp_path / "mine.py"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.py", "cannot be read"), ("mine.txt", r"must end in \.py")],
)
def test_a_missing_or_wrongly_named_file_is_reported(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "mine.txt").write_text(GOOD)

    with pytest.raises(SpecError, match=message):
        load_preprocessing(tmp_path / name, "Halved")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("np.zeros((3, 2, 1), np.uint8)", r"uint8 of shape \(3, 2, 1\), .* \(2, 3, 1\)"),
        ("np.zeros((2, 3, 1))", "returned float64 .* declares uint8"),
        ("[[1, 2, 3], [4, 5, 6]]", "returned list"),
        ("1 / 0", "raised ZeroDivisionError on a 12×8 L image"),
    ],
)
def test_a_class_that_fails_or_breaks_its_declaration_is_a_bug_and_not_the_clients_error(
    tmp_path: Path, result: str, message: str
) -> None:
    preprocessing = load(tmp_path, with_body(f"return {result}"))

    with pytest.raises(PreprocessingBug, match=message) as caught:
        to_input(PHOTO, preprocessing, LIMITS)

    assert not isinstance(caught.value, (ClientError, OperatorError))


def test_a_class_may_reject_an_image(tmp_path: Path) -> None:
    source = "from preprocessing.errors import UndecodableImage\n"
    preprocessing = load(tmp_path, source + with_body("raise UndecodableImage('too dark')"))

    with pytest.raises(UndecodableImage, match="too dark"):
        to_input(PHOTO, preprocessing, LIMITS)
