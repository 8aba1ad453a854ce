"""Gates and certificates on logits written by hand."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import Precision
from image_classifier.artifact.manifest import Outputs
from image_classifier.inference.certificate import Gates, GoldenAnswers, certify
from image_classifier.inference.engine import Logits

UNKNOWN = (None,) * 400
SIGMOID = Outputs(activation="sigmoid", threshold=0.75)  # its logit is log 3 = 1.0986


def rows(*logits: list[float]) -> Logits:
    return np.array(logits, dtype=np.float32)


def one_hot(*class_ids: int) -> Logits:
    """Logits of a clear answer: 10 for the class, 0 for the others; three classes."""
    return 10 * np.eye(3, dtype=np.float32)[list(class_ids)]


def certified(
    logits: Logits,
    reference: Logits,
    precision: Precision = "fp32",
    class_ids: tuple[int | None, ...] = UNKNOWN,
    outputs: Outputs | None = None,
) -> tuple[Certificate, str]:
    truth = GoldenAnswers(
        logits=reference, class_ids=class_ids[: len(reference)], outputs=outputs or Outputs()
    )
    return certify(logits, truth, precision, Gates())


def test_equal_logits_pass_with_difference_zero_and_full_agreement() -> None:
    certificate, failure = certified(one_hot(0, 1, 2), one_hot(0, 1, 2))

    assert failure == ""
    assert certificate == Certificate(
        samples=3,
        max_logit_difference=0,
        max_probability_difference=0,
        tolerance=1e-3,
        top1_agreement=1,
        required_agreement=1,
        accuracy=None,
        reference_accuracy=None,
        max_accuracy_loss=None,
    )


ONE_OFF = np.tile(rows([5, 1, 0]), (100, 1))
ONE_OFF[57, 2] += 0.01
OFF = "a logit is off by "


@pytest.mark.parametrize(
    ("precision", "logits", "reference", "failure"),
    [
        pytest.param("fp32", [[0.5009, 9e3]], [[0.5, 9e3]], "", id="below-one-it-is-absolute"),
        pytest.param("fp32", [[0.5011, 9e3]], [[0.5, 9e3]], OFF, id="below-one-and-beyond"),
        pytest.param("fp32", [[1e-3, 5.02e-4]], [[1e-3, 5e-4]], OFF, id="small-scores"),
        pytest.param("fp32", [[-2001.9, 9e3]], [[-2e3, 9e3]], "", id="above-one-it-is-relative"),
        pytest.param("fp32", [[-2002.1, 9e3]], [[-2e3, 9e3]], OFF, id="above-one-and-beyond"),
        pytest.param(
            "fp32",
            [[10.5, -10]],
            [[10, -10]],
            f"{OFF}0.05 (relative), allowed is 0.001",
            id="numbers",
        ),
        # A softmax ignores what all logits have in common.
        pytest.param("fp32", [[-945.5, -944, -949]], [[-945, -944, -949]], OFF, id="all-large"),
        pytest.param("fp32", ONE_OFF, [[5, 1, 0]] * 100, OFF, id="one-logit-among-many"),
        pytest.param("int8", [[3.0, 2]], [[10, 0]], "", id="int8-logits-may-move-if-top-1-stays"),
    ],
)
def test_fp32_logits_may_differ_by_a_thousandth_and_others_while_the_top_1_stays(
    precision: Precision, logits: list[list[float]], reference: list[list[float]], failure: str
) -> None:
    message = certified(rows(*logits), rows(*reference), precision)[1]

    assert message.startswith(failure)
    assert bool(message) is bool(failure)


def test_scores_may_not_differ_by_what_they_have_in_common() -> None:
    scores, other = rows([-945, -944, -949]), rows([-945.5, -944, -949])
    outputs = Outputs(activation="none")

    assert certified(other, scores, "fp32", outputs=outputs)[1].startswith(OFF)
    assert not certified(other[:, :1], scores[:, :1], "fp32", outputs=outputs)[1]
    assert not certified(other, scores, "fp32", outputs=SIGMOID)[1]


@pytest.mark.parametrize("damaged", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("outputs", [Outputs(), SIGMOID])
def test_logits_that_are_not_finite_fail_and_the_certificate_stays_json(
    damaged: float, outputs: Outputs
) -> None:
    certificate, failure = certified(rows([1, damaged]), rows([1, 0]), "int8", outputs=outputs)

    assert failure == "its logits contain NaN or infinity"
    assert math.isfinite(certificate.max_logit_difference)


@pytest.mark.parametrize(
    ("precision", "logits", "reference", "agreement"),
    [
        # Margin 0.0015, tolerance 0.001: each may move by 0.001, so the order means nothing.
        pytest.param("fp32", [0.9993, 1.0007, 0], [1.0, 0.9985, 0], 1, id="near-tie"),
        # Margin 0.0025 > 2 * 0.001.
        pytest.param("fp32", [1.0, 1.01, 0], [1.0025, 1.0, 0], 0, id="beyond-two-tolerances"),
        pytest.param("int8", [1, 1.0005], [1.0005, 1], 0, id="no-near-ties-in-reduced-precision"),
    ],
)
def test_a_changed_top_1_counts_unless_the_reference_is_a_near_tie(
    precision: Precision, logits: list[float], reference: list[float], agreement: float
) -> None:
    assert certified(rows(logits), rows(reference), precision)[0].top1_agreement == agreement


@pytest.mark.parametrize(
    ("changed", "failure"),
    [(2, ""), (3, "top-1 agrees on 98.5% of the golden samples, required is 99.0%")],
)
def test_reduced_precision_must_keep_99_of_100_top_1(changed: int, failure: str) -> None:
    logits = one_hot(*[1] * changed, *[0] * (200 - changed))

    certificate, message = certified(logits, one_hot(*[0] * 200), "bf16")

    assert certificate.top1_agreement == pytest.approx(1 - changed / 200)
    assert message == failure


@pytest.mark.parametrize(
    ("lost", "failure"), [(1, ""), (2, "accuracy falls by 1.00%, allowed is 0.50%")]
)
def test_a_loss_of_accuracy_up_to_the_limit_passes(lost: int, failure: str) -> None:
    # 200 labelled samples: the reference is right on 199, the engine on 198: 0.5 points less.
    truth = (0,) * 199 + (1,)
    logits = one_hot(*[2] * lost, *[0] * (200 - lost))

    certificate, message = certified(logits, one_hot(*[0] * 200), "int8", truth)

    assert certificate.reference_accuracy == 0.995
    assert certificate.accuracy == pytest.approx(0.995 - lost / 200)
    assert message == failure


def test_accuracy_counts_only_labelled_samples_and_may_exceed_the_reference() -> None:
    logits, reference = one_hot(0, 1, 2, 2), one_hot(0, 1, 1, 0)
    certificate, _ = certified(logits, reference, class_ids=(0, None, 1, None))

    # Of the labelled first and third, the engine is right on the first, the reference on both.
    assert (certificate.accuracy, certificate.reference_accuracy) == (0.5, 1)
    better = certified(one_hot(*[0] * 200), one_hot(1, 1, *[0] * 198), "int8", (0,) * 200)
    assert better[1] == ""


@pytest.mark.parametrize(
    ("threshold", "reference_accuracy"),
    # The probabilities are 0.88, 0.38, 0.52 and 0.05; the truth is yes, no, yes, yes.
    [(None, 0.75), (0.6, 0.5), (0.04, 0.75)],
)
def test_one_sigmoid_output_decides_between_two_classes_at_the_threshold(
    threshold: float | None, reference_accuracy: float
) -> None:
    logits = rows([2.0], [-0.5], [0.1], [-3.0])
    outputs = Outputs(activation="sigmoid", threshold=threshold)

    certificate, failure = certified(logits, logits, "int8", (1, 0, 1, 1), outputs)

    assert certificate.reference_accuracy == certificate.accuracy == reference_accuracy
    assert (certificate.label_agreement, failure) == (1, "")


def test_with_a_sigmoid_the_decision_on_each_label_must_stay() -> None:
    # 100 samples, two labels; the engine decides differently on the second label of two samples.
    reference = np.tile(rows([3.0, 2.0]), (100, 1))
    logits = reference.copy()
    logits[:2, 1] = 1.0

    certificate, failure = certified(logits, reference, "int8", outputs=SIGMOID)

    assert (certificate.label_agreement, certificate.top1_agreement) == (0.98, None)
    # sigmoid(2) - sigmoid(1) = 0.8808 - 0.7311
    assert certificate.max_probability_difference == pytest.approx(0.1497, abs=1e-3)
    assert failure == (
        "the decision on label 1 agrees on 98.0% of the golden samples, required is 99.0%"
    )
    # The order of the labels does not matter.
    assert certified(rows([3.0, 2.0]), rows([2.0, 3.0]), "int8", outputs=SIGMOID)[1] == ""


@pytest.mark.parametrize(("reference", "agreement"), [(1.0980, 1), (1.0970, 0)])
def test_an_fp32_logit_near_the_threshold_may_fall_on_either_side(
    reference: float, agreement: float
) -> None:
    # The threshold's logit is 1.0986; the tolerance of such a logit is 0.0011.
    certificate, _ = certified(rows([1.0987]), rows([reference]), outputs=SIGMOID)

    assert certificate.label_agreement == agreement


@pytest.mark.parametrize("scores", [[2.0], [2.0, 97.5]])
def test_scores_are_served_in_fp32_only(scores: list[float]) -> None:
    outputs, reference = Outputs(activation="none"), rows(scores)

    assert certified(reference, reference, "fp32", outputs=outputs)[1] == ""
    reduced = certified(reference * 1.5, reference, "int8", outputs=outputs)[1]
    assert "served in fp32" in reduced


def test_the_difference_is_rounded_to_three_digits() -> None:
    certificate, _ = certified(rows([1.000012345678, 0]), rows([1, 0]))

    assert certificate.max_logit_difference == 1.24e-5  # float32 of 1.000012345678 is 1.0000124


@pytest.mark.parametrize(
    "gates",
    [
        *({"fp32_tolerance": value} for value in (math.nan, 0, math.inf)),
        {"min_agreement": 1.1},
        {"max_accuracy_loss": math.nan},
    ],
    ids=str,
)
def test_gates_that_pass_everything_or_nothing_are_refused(gates: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Gates.model_validate(gates)
