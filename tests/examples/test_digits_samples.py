"""The sample files of the digits example: their content and how they are read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.digits import make_samples
from examples.digits.evaluation import predicted_digits
from preprocessing import DecodeLimits, DecodeRules, decode_image, load_preprocessing
from tests.examples.test_digits_training import trained_network
from tests.imports import DIGITS

SAMPLES = sorted((DIGITS / "samples").iterdir())
TURNED = [
    *("2-01.jpg", "3-02.jpg", "5-01.jpg", "5-02.jpg", "6-01.jpg"),
    *("6-03.jpg", "7-02.jpg", "7-03.jpg", "9-03.jpg"),
]
GREY16 = ["7-01.png", "9-02.png"]
TRANSPARENT = ["0-03.png", "2-02.png", "2-03.png", "3-01.png", "3-03.webp"]


def misread(**other_rules: object) -> list[str]:
    """Return the samples that the committed weights misread with other decode rules."""
    preprocessing = load_preprocessing(DIGITS / "preprocessing.py", "DigitsPreprocessing")
    rules = DecodeRules.model_validate(preprocessing.decode.model_dump() | other_rules)
    images = [decode_image(path.read_bytes(), rules, DecodeLimits()) for path in SAMPLES]
    inputs = np.stack([*map(preprocessing.to_input, images)])
    predicted = predicted_digits(trained_network(), inputs)
    return [
        path.name
        for path, digit in zip(SAMPLES, predicted, strict=True)
        if path.name[0] != str(digit)
    ]


def test_all_samples_are_read_and_some_need_each_decode_rule() -> None:
    assert misread() == []
    assert misread(exif_orientation=False) == TURNED
    assert misread(alpha="drop") == TRANSPARENT
    assert misread(grey16="clip") == GREY16


@pytest.mark.all  # draws all samples
def test_the_committed_samples_are_those_that_make_samples_draws(tmp_path: Path) -> None:
    make_samples.main(["--out", str(tmp_path)])

    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in SAMPLES]
    for path in SAMPLES:
        with Image.open(path) as committed, Image.open(tmp_path / path.name) as drawn:
            assert (committed.mode, committed.size) == (drawn.mode, drawn.size)
            # Lossy encoders differ slightly between versions.
            difference = np.asarray(committed.convert("RGBA"), float) - np.asarray(
                drawn.convert("RGBA"), float
            )
            assert abs(difference).mean() < 2
