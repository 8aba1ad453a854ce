"""The preprocessing of the digits example, on pictures whose input is derived by hand."""

import numpy as np
import pytest
from PIL import Image

from examples.digits.preprocessing import DigitsPreprocessing


def paper_with_bar(*, ink: int, paper: int) -> Image.Image:
    """Draw an upright bar of 40×80 off the centre of 100×150 paper."""
    picture = Image.new("L", (100, 150), paper)
    picture.paste(ink, (10, 20, 50, 100))
    return picture


def centred_bar() -> np.ndarray:
    """Return the bar scaled by 26/80 to 13×26, after (32 - 13) // 2 = 9 columns and 3 rows."""
    expected = np.zeros((32, 32, 1), np.uint8)
    expected[3:29, 9:22] = 255
    return expected


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        pytest.param(0, 255, id="black-on-white"),
        pytest.param(100, 180, id="faint"),
        pytest.param(0, 80, id="dark-paper"),
    ],
)
def test_the_digit_is_centred_white_on_black_for_any_position_and_contrast(
    ink: int, paper: int
) -> None:
    network_input = DigitsPreprocessing().to_input(paper_with_bar(ink=ink, paper=paper))

    np.testing.assert_array_equal(network_input, centred_bar())


def test_a_faint_speck_does_not_move_the_digit() -> None:
    picture = paper_with_bar(ink=0, paper=255)
    picture.paste(195, (90, 140, 95, 145))  # inverted: 60, below the threshold of 64

    network_input = DigitsPreprocessing().to_input(picture)

    np.testing.assert_array_equal(network_input, centred_bar())


def test_empty_paper_gives_zeros() -> None:
    network_input = DigitsPreprocessing().to_input(Image.new("L", (64, 48), 255))

    np.testing.assert_array_equal(network_input, np.zeros((32, 32, 1), np.uint8))


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (31, 32)])
def test_every_size_gives_the_declared_shape_and_dtype(size: tuple[int, int]) -> None:
    preprocessing = DigitsPreprocessing()

    network_input = preprocessing.to_input(Image.new("L", size, 0))

    assert network_input.shape == preprocessing.input_shape == (32, 32, 1)
    assert network_input.dtype == preprocessing.input_dtype == "uint8"
