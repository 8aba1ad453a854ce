"""Softmax and ranking, against numbers worked out by hand and by exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_probabilities_follow_by_hand_from_the_logits() -> None:
    # exp(ln 1), exp(ln 3), exp(ln 4), exp(ln 8): 1 + 3 + 4 + 8 = 16
    probabilities = softmax(row(0, math.log(3), math.log(4), math.log(8)))

    assert probabilities.tolist() == pytest.approx([1 / 16, 3 / 16, 4 / 16, 8 / 16], rel=1e-7)


def test_softmax_is_over_the_classes_and_not_over_the_batch() -> None:
    batch = np.array([[0, 0, 0], [0, math.log(2), 0]], dtype=np.float32)

    probabilities = softmax(batch)

    expected = [[1 / 3, 1 / 3, 1 / 3], [1 / 4, 2 / 4, 1 / 4]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-7)


@given(st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=50))
def test_softmax_equals_exact_arithmetic(logits: list[float]) -> None:
    # exp as the rational number that 60 terms of its series give: good to 1e-40 for |x| <= 1,
    # and exp(x) = exp(x / 256) ** 256.
    def exp(x: float) -> Fraction:
        small, term, total = Fraction(x) / 256, Fraction(1), Fraction(1)
        for number in range(1, 16):
            term = term * small / number
            total += term
        return total

    exps = [float(exp(value)) for value in logits]
    logs = [256 * math.log(value) for value in exps]
    largest = max(logs)
    total = math.fsum(math.exp(value - largest) for value in logs)
    expected = [math.exp(value - largest) / total for value in logs]

    np.testing.assert_allclose(softmax(np.array(logits, np.float32)), expected, rtol=1e-9)


def test_the_tail_of_a_thousand_classes_keeps_its_digits() -> None:
    logits = np.zeros(1000, np.float32)
    logits[0] = 100

    probabilities = softmax(logits)

    assert probabilities[1] == pytest.approx(math.exp(-100), rel=1e-9)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("shift", [-3e38, -1e4, 1e4, 3e38])
def test_huge_logits_do_not_overflow(shift: float) -> None:
    assert softmax(row(shift, shift)).tolist() == [0.5, 0.5]


def test_softmax_leaves_the_logits_as_they_were() -> None:
    logits = row(1, 2, 3).astype(np.float64)

    softmax(logits)  # type: ignore[arg-type]  # float64 is the case where a copy could be saved

    assert logits.tolist() == [1, 2, 3]


def test_predictions_are_ranked_and_carry_label_and_class() -> None:
    predictions = top_k_predictions(row(0, math.log(8), math.log(3), math.log(4)), LABELS, 3)

    assert [(one.label, one.class_id) for one in predictions] == [
        ("bee", 1),
        ("dog", 3),
        ("cat", 2),
    ]
    assert [one.probability for one in predictions] == pytest.approx([8 / 16, 4 / 16, 3 / 16])


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_as_many_predictions_come_as_were_asked_for(top_k: int) -> None:
    assert len(top_k_predictions(row(1, 2, 3, 4), LABELS, top_k)) == top_k


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    predictions = top_k_predictions(row(5, 7, 7, 7), LABELS, 4)

    assert [one.class_id for one in predictions] == [1, 2, 3, 0]


@pytest.mark.parametrize("damaged", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(damaged: float) -> None:
    with pytest.raises(DamagedLogits):
        top_k_predictions(row(1, damaged, 2, 3), LABELS, 1)


def test_a_probability_is_the_shortest_decimal_of_its_float32() -> None:
    # 1/3 as float32 is 0.3333333432674407958984375; 0.33333334 is the shortest that reads back.
    (first, *_) = top_k_predictions(row(0, 0, 0), LABELS, 1)

    assert repr(first.probability) == "0.33333334"


@given(st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4))
def test_a_probability_reads_back_as_the_float32_of_the_softmax(logits: list[float]) -> None:
    for one in top_k_predictions(row(*logits), LABELS, 4):
        assert np.float32(one.probability) == np.float32(softmax(row(*logits))[one.class_id])


def named(outputs: Outputs, labels: tuple[str, ...], *logits: float) -> dict[str, float]:
    return {
        one.label: one.probability if isinstance(one, Prediction) else one.score
        for one in top_k_predictions(row(*logits), labels, len(labels), outputs)
    }


def test_sigmoid_judges_each_label_by_itself() -> None:
    # 1 / (1 + exp(-log 3)) = 3/4, and log(1/3) gives 1/4: they need not sum to 1.
    found = named(Outputs(activation="sigmoid"), ("a", "b", "c"), math.log(3), math.log(3), 0)

    assert found == {"a": 0.75, "b": 0.75, "c": 0.5}


def test_a_threshold_leaves_out_the_labels_below_it_even_all() -> None:
    outputs = Outputs(activation="sigmoid", threshold=0.75)
    labels = ("a", "b", "c")

    assert named(outputs, labels, math.log(3), math.log(1 / 3), 1000) == {"c": 1.0, "a": 0.75}
    assert named(outputs, labels, 0, -1000, 1) == {}


def test_one_sigmoid_output_is_the_probability_of_its_label_or_of_the_second_of_two() -> None:
    outputs = Outputs(activation="sigmoid")

    assert named(outputs, ("cat",), math.log(3)) == {"cat": 0.75}
    assert list(named(outputs, ("dog", "cat"), math.log(3)).items()) == [
        ("cat", 0.75),
        ("dog", 0.25),
    ]
    assert list(named(outputs, ("dog", "cat"), -math.log(3))) == ["dog", "cat"]


@pytest.mark.parametrize(("threshold", "label"), [(0.7, "cat"), (0.8, "dog")])
def test_the_threshold_of_one_output_chooses_one_of_its_two_labels(
    threshold: float, label: str
) -> None:
    outputs = Outputs(activation="sigmoid", threshold=threshold)

    assert list(named(outputs, ("dog", "cat"), math.log(3))) == [label]  # 0.75 for cat


def test_without_activation_the_answer_is_the_outputs_as_scores() -> None:
    found = top_k_predictions(row(-2, 13.5), ("a", "b"), 2, Outputs(activation="none"))

    assert found == (
        Score(label="b", class_id=1, score=13.5),
        Score(label="a", class_id=0, score=-2.0),
    )
