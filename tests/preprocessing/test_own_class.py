"""A user's own class: loaded from its file, and held to what it declares."""

import numpy as np
import pytest

from preprocessing import PreprocessingBug, SpecError, load_preprocessing, to_input
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
FLOAT = GOOD.replace('"uint8"', '"float32"').replace("(0.5,)", "None").replace("(0.25,)", "None")
PHOTO = encoded(noise(12, 8), "PNG")


def load(folder, source, name="Halved"):
    (folder / "mine.py").write_text(source)
    return load_preprocessing(folder / "mine.py", name)


def test_a_class_is_loaded_and_used(tmp_path):
    preprocessing = load(tmp_path, GOOD)

    array = to_input(PHOTO, preprocessing, LIMITS)

    expected = np.asarray(noise(12, 8).convert("L").resize((3, 2)))[..., None]
    np.testing.assert_array_equal(array, expected)


def test_a_class_may_normalise_itself(tmp_path):
    source = FLOAT.replace("[..., None]", "[..., None].astype(np.float32) / 255")

    array = to_input(PHOTO, load(tmp_path, source), LIMITS)

    assert array.dtype == np.float32
    assert 0 < array.max() <= 1


def test_two_files_of_the_same_name_do_not_mix(tmp_path):
    first = load(tmp_path, GOOD)
    second = load(tmp_path, GOOD.replace("(0.5,)", "(0.75,)"))

    assert (first.mean, second.mean) == ((0.5,), (0.75,))


@pytest.mark.parametrize(
    ("find", "replace", "message"),
    [
        ("class Halved", "class Other", "no such class"),
        ("class Halved:", "class Halved\n:", "importing it raised SyntaxError"),
        ("import numpy", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("    def to_input", "    def __init__(self, size): ...\n    def to_input", "no arguments"),
        ("DecodeRules(mode", "dict(mode", "decode must be a preprocessing.DecodeRules"),
        ("(2, 3, 1)", "(2, 3)", r"got \(2, 3\)"),
        ("(2, 3, 1)", "(2, 3, 0)", "three positive whole numbers"),
        ('"uint8"', '"float64"', "'uint8' or 'float32', got 'float64'"),
        ("(0.5,)", "(0.5, 0.5)", "mean must be a tuple of 1 numbers"),
        ("    std = (0.25,)\n", "", "std must be a tuple of 1 numbers with uint8, got nothing"),
        ("(0.25,)", "(0,)", "std must be positive"),
        ('"uint8"', '"float32"', "mean and std must be None with float32"),
        ("def to_input", "def input", "to_input"),
    ],
)
def test_a_class_that_cannot_be_used_is_reported_in_one_line(tmp_path, find, replace, message):
    assert find in GOOD

    with pytest.raises(SpecError, match=message) as caught:
        load(tmp_path, GOOD.replace(find, replace))

    assert str(caught.value).startswith(str(tmp_path / "mine.py"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.py", "."])
def test_a_file_that_cannot_be_read_is_reported(tmp_path, name):
    with pytest.raises(SpecError, match="cannot be read"):
        load_preprocessing(tmp_path / name, "Halved")


def test_a_file_that_is_not_python_is_reported(tmp_path):
    (tmp_path / "mine.txt").write_text(GOOD)

    with pytest.raises(SpecError, match=r"must end in \.py"):
        load_preprocessing(tmp_path / "mine.txt", "Halved")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("np.zeros((3, 2, 1), np.uint8)", r"uint8 of shape \(3, 2, 1\), .* \(2, 3, 1\)"),
        ("np.zeros((2, 3, 1))", "returned float64 .* declares uint8"),
        ("[[1, 2, 3], [4, 5, 6]]", "returned list"),
        ("1 / 0", "raised ZeroDivisionError on a 12×8 L image"),
    ],
)
def test_a_class_that_breaks_its_word_is_a_bug_and_not_the_clients(tmp_path, result, message):
    at = GOOD.index("        return")
    preprocessing = load(tmp_path, GOOD[:at] + f"        return {result}\n")

    with pytest.raises(PreprocessingBug, match=message) as caught:
        to_input(PHOTO, preprocessing, LIMITS)

    assert not isinstance(caught.value, (ClientError, OperatorError))


def test_a_class_may_refuse_a_picture(tmp_path):
    at = GOOD.index("        return")
    refusing = "        raise UndecodableImage('too dark')\n"
    source = "from preprocessing.errors import UndecodableImage\n" + GOOD[:at] + refusing

    with pytest.raises(UndecodableImage, match="too dark"):
        to_input(PHOTO, load(tmp_path, source), LIMITS)


def test_the_input_is_contiguous_whatever_the_class_returns(tmp_path):
    source = GOOD.replace("[..., None]", "[:, ::-1, None]")

    array = to_input(PHOTO, load(tmp_path, source), LIMITS)

    assert array.flags.c_contiguous


def test_the_file_of_the_client_is_what_decode_says(tmp_path):
    with pytest.raises(UndecodableImage):
        to_input(PHOTO[:50], load(tmp_path, GOOD), LIMITS)
