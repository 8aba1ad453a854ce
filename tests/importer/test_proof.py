"""What an import says about its proof, and about what is left unproven."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.artifact.manifest import Outputs
from importer.diagnosis import Comparison
from importer.golden_images import GoldenImage
from importer.proof import describe_labels, describe_numbers
from importer.reference import Kind, Reference
from importer.targets import Targets
from preprocessing import PreprocessingSpec, SpecPreprocessing
from tests.preprocessing.encoders import exif_orientation
from tests.preprocessing.files import encoded

UNPROVEN = "in the right order is unproven"


@pytest.mark.parametrize(
    ("class_ids", "named", "order_proven", "is_open"),
    [
        ((0, 1, 2), True, False, ""),
        ((0, 1, None), True, False, ""),  # the third name can only be that of the third class
        # Two names may be exchanged.
        ((0, 2, 1), True, False, "golden images confirm 1 of 3 labels: that the others are"),
        # An answer of another class is as frequent.
        ((0, 0, None), True, False, "golden images confirm 0 of 3 labels: that the others are"),
        ((0, 0, None), True, True, ""),
        ((0, 1, 2), False, False, "classes by number or order of folders, not by label: "),
        ((0, 1, 2), False, True, ""),
        ((None, None, None), False, False, "no golden image is labelled: that the labels are"),
    ],
)
def test_what_golden_images_do_not_show_of_the_labels_is_said(
    class_ids: tuple[int | None, ...], named: bool, order_proven: bool, is_open: str
) -> None:
    targets = Targets(order="", labels=("a", "b", "c"), class_ids=class_ids, named=named)

    sentences = "; ".join(describe_labels(targets, np.array([0, 1, 2]), order_proven=order_proven))

    assert is_open in sentences
    assert (UNPROVEN in sentences) == bool(is_open)


@pytest.mark.parametrize(
    ("answers", "confirmed"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], 3),
        ([0, 0, 1, 1, 1, 0, 2, 2, 2], 3),
        ([0, 1, 1, 1, 0, 0, 2, 2, 2], 1),  # 0 and 1 exchanged, with one mistake in each
        ([0, 1, 2, 1, 1, 1, 2, 2, 2], 2),  # the images of 0 get all classes alike
        ([0, 0, 1, 1, 1, 1, 0, 0, 2], 1),  # as many images of 2 as of 0 get 0
    ],
)
def test_a_label_is_confirmed_only_by_most_of_its_images_and_answers(
    answers: list[int], confirmed: int
) -> None:
    labels = tuple("abcde")
    class_ids = (0, 0, 0, 1, 1, 1, 2, 2, 2)
    targets = Targets(order="", labels=labels, class_ids=class_ids, named=True)

    sentences = describe_labels(targets, np.array(answers), order_proven=False)

    assert f"golden images confirm {confirmed} of 5 labels" in sentences[-1]


def picture(*, square: bool, turned: bool) -> GoldenImage:
    exif = exif_orientation(6 if turned else 1)
    image = Image.new("RGB", (8, 8 if square else 6))
    return GoldenImage(name="a", data=encoded(image, "PNG", exif=b"Exif\0\0" + exif))


def compared(kind: Kind, rows: list[list[float]]) -> Comparison:
    names = [str(row) for row in range(len(rows))]
    reference = Reference(
        kind=kind, by_name=dict(zip(names, np.array(rows), strict=True)), path=Path()
    )
    images = tuple(GoldenImage(name=name, data=b"") for name in names)
    logits = np.array(rows, dtype=np.float32)
    return Comparison.of(reference, images, logits, Outputs(), tolerance=1e-3)


CLEAR = [[1e-5, 1 - 1e-5], [1.0, 0.0], [0.4, 0.6]]
UNCLEAR = [[0.1, 0.9], [0.2, 0.8], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("kind", "rows", "chosen", "is_open"),
    [
        ("logits", UNCLEAR, False, "what the notebook makes of them (SCORES) is unproven without"),
        ("logits", UNCLEAR, True, ""),
        ("probabilities", UNCLEAR, False, ""),
        ("probabilities", CLEAR, False, "most of the notebook's probabilities are 0 or 1"),
    ],
)
def test_what_a_reference_does_not_show_is_said(
    kind: Kind, rows: list[list[float]], chosen: bool, is_open: str
) -> None:
    images = [picture(square=False, turned=True)]

    comparison = replace(compared(kind, rows), logits=np.array(rows, np.float32) + 0.5)

    sentences = describe_numbers(comparison, images, meaning="SCORES", chosen=chosen)

    within = "0.5" if kind == "logits" else "0.27"  # the softmax of (1, 0) is (0.73, 0.27)
    assert sentences[0] == f"the notebook's {kind} are reproduced within {within} on 1 golden image"
    assert is_open in "; ".join(sentences)
    assert len(sentences) == 1 + bool(is_open)


@pytest.mark.parametrize(
    ("square", "unproven", "is_open"),
    [
        (False, [], "reproduced within"),
        (True, [], "no golden image is other than square: that the notebook treats those in the "),
        (False, ["crop_rounding", "decode.alpha"], "do not show crop_rounding, decode.alpha: incl"),
    ],
)
def test_what_the_golden_images_do_not_show_is_named(
    square: bool, unproven: list[str], is_open: str
) -> None:
    images = [picture(square=True, turned=False), picture(square=square, turned=False)]
    comparison = compared("probabilities", UNCLEAR)

    (*_, last) = describe_numbers(comparison, images, meaning="", chosen=True, unproven=unproven)

    assert is_open in last


TURN = {"exif_orientation": True}


@pytest.mark.parametrize(
    ("resize", "decode", "named"),
    [
        ({"size": 4}, {}, False),
        ({"size": 6}, {}, True),
        ({"size": 8}, {}, True),
        (None, {}, False),
        # Stored as 8x6, upright 6x8 (width, height); a size is (height, width).
        ({"mode": "exact", "size": [7, 5]}, {}, True),
        ({"mode": "exact", "size": [7, 5]}, TURN, False),
    ],
)
def test_it_is_said_if_the_resize_makes_no_golden_image_smaller(
    resize: dict[str, object] | None, decode: dict[str, object], named: bool
) -> None:
    fields = {"decode": decode, "crop": 4, "mean": [0.5] * 3, "std": [0.5] * 3}
    preprocessing = SpecPreprocessing(
        PreprocessingSpec.model_validate(fields | ({"resize": resize} if resize else {}))
    )
    image = picture(square=False, turned=True)
    sentences = describe_numbers(
        compared("probabilities", UNCLEAR),
        [image],
        meaning="",
        chosen=True,
        preprocessing=preprocessing,
    )

    assert ("no golden image is made smaller" in sentences[-1]) == named


def test_equal_answers_to_all_golden_images_are_said() -> None:
    targets = Targets(order="", labels=("a", "b"), class_ids=(0, 0), named=True)

    said = describe_labels(targets, np.array([0, 0]), order_proven=True)

    assert said[1] == "all golden images get the same answer, which shows little of the others"
