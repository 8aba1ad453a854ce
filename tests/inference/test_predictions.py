"""Probabilities, scores and ranking, compared with numbers worked out by hand."""

import math

import numpy as np
import pytest

from image_classifier.artifact.manifest import Outputs
from image_classifier.inference.predictions import (
    DamagedLogits,
    Prediction,
    Score,
    softmax,
    top_k_predictions,
)

LABELS = ("ant", "bee", "cat", "dog")


def row(*logits: float) -> np.ndarray:
    return np.array(logits, dtype=np.float32)


def test_softmax_follows_by_hand_over_the_classes_and_not_over_the_batch() -> None:
    # exp(ln 1), exp(ln 3), exp(ln 4), exp(ln 8): 1 + 3 + 4 + 8 = 16
    batch = np.array([[0, math.log(3), math.log(4), math.log(8)], [0, 0, 0, 0]], np.float32)

    expected = [[1 / 16, 3 / 16, 4 / 16, 8 / 16], [1 / 4] * 4]
    np.testing.assert_allclose(softmax(batch), expected, rtol=1e-7)


def test_tiny_probabilities_keep_their_digits_and_huge_logits_do_not_overflow() -> None:
    logits = np.zeros(1000, np.float32)
    logits[0] = 100

    assert softmax(logits)[1] == pytest.approx(math.exp(-100), rel=1e-9)
    assert softmax(row(3e38, 3e38)).tolist() == softmax(row(-3e38, -3e38)).tolist() == [0.5, 0.5]


def test_equal_logits_are_ranked_by_class_id() -> None:
    predictions = top_k_predictions(row(5, 7, 7, 7), LABELS, 4)

    assert [prediction.class_id for prediction in predictions] == [1, 2, 3, 0]


@pytest.mark.parametrize("damaged", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(damaged: float) -> None:
    with pytest.raises(DamagedLogits):
        top_k_predictions(row(1, damaged, 2, 3), LABELS, 1)


def test_a_probability_is_the_shortest_decimal_of_its_float32() -> None:
    # 1/3 as float32 is 0.3333333432674407958984375; 0.33333334 is the shortest that reads back.
    (first, *_) = top_k_predictions(row(0, 0, 0), LABELS, 1)

    assert repr(first) == "Prediction(label='ant', class_id=0, probability=0.33333334)"


# 1 / (1 + exp(-log 3)) = 3/4, and log(1/3) gives 1/4.
YES, NO = math.log(3), math.log(1 / 3)


@pytest.mark.parametrize(
    ("threshold", "labels", "logits", "expected"),
    [
        # Each label is judged by itself: the probabilities need not sum to 1.
        (None, ("a", "b", "c"), (YES, YES, 0), {"a": 0.75, "b": 0.75, "c": 0.5}),
        # A threshold leaves out the labels below it, even all.
        (0.75, ("a", "b", "c"), (YES, NO, 1000), {"c": 1.0, "a": 0.75}),
        (0.75, ("a", "b", "c"), (0, -1000, 1), {}),
        # One output is the probability of its label, or of the second of two.
        (None, ("cat",), (YES,), {"cat": 0.75}),
        (None, ("dog", "cat"), (YES,), {"cat": 0.75, "dog": 0.25}),
        (None, ("dog", "cat"), (NO,), {"dog": 0.75, "cat": 0.25}),
        # With two labels, the threshold selects one.
        (0.7, ("dog", "cat"), (YES,), {"cat": 0.75}),
        (0.8, ("dog", "cat"), (YES,), {"dog": 0.25}),
    ],
)
def test_a_sigmoid_judges_each_label_by_the_threshold(
    threshold: float | None,
    labels: tuple[str, ...],
    logits: tuple[float, ...],
    expected: dict[str, float],
) -> None:
    outputs = Outputs(activation="sigmoid", threshold=threshold)

    predictions = top_k_predictions(row(*logits), labels, len(labels), outputs)

    actual = [(p.label, p.probability) for p in predictions if isinstance(p, Prediction)]
    assert actual == list(expected.items())


def test_without_activation_the_outputs_are_ranked_as_scores() -> None:
    scores = top_k_predictions(row(-2, 13.5), ("a", "b"), 2, Outputs(activation="none"))

    assert scores == (
        Score(label="b", class_id=1, score=13.5),
        Score(label="a", class_id=0, score=-2.0),
    )
