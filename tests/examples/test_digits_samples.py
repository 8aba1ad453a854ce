"""The sample files of the digits example: their content and how they are read."""

import numpy as np

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
