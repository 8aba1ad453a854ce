"""Certification of an engine: its gates and its comparison with the reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import FrozenModel, Precision
from image_classifier.artifact.manifest import Activation, Outputs
from image_classifier.inference.engine import Logits
from image_classifier.inference.predictions import activate, answered_classes, sigmoid

Share = Annotated[float, Field(ge=0, le=1)]


class Gates(FrozenModel):
    """The conditions for certifying an engine.

    Attributes:
        fp32_tolerance: Largest |difference of a logit| of an fp32 engine, as a factor of
            `logit_scale`.
        min_agreement: Least share of golden samples on which a bf16, fp16 or int8 engine keeps
            the top-1 (with a sigmoid: the decision on each label).
        max_accuracy_loss: Largest loss of accuracy of such an engine on labelled samples.
    """

    fp32_tolerance: Annotated[float, Field(gt=0)] = 1e-3
    min_agreement: Share = 0.99
    max_accuracy_loss: Share = 0.005


def logit_scale(
    reference: npt.NDArray[Any], activation: Activation = "sigmoid"
) -> npt.NDArray[Any]:
    """Return the scale of differences of logits, in the shape of the reference.

    The scale is the size of each logit, but at least 1, or the size of the largest logit if that
    is below 1: a difference of 0.001 matters between scores around 0.001. Unless each logit has a
    sigmoid of its own, a number that is added to all logits of an image changes no order, so it
    must not enlarge the scale: the distance from the image's mean logit counts where it is smaller.
    """
    sizes = np.abs(reference)
    least = max(min(1.0, float(sizes.max())), float(np.finfo(np.float32).tiny))
    if activation != "sigmoid" and reference.shape[1] > 1:
        centred = reference - reference.mean(axis=1, keepdims=True)
        sizes = np.minimum(sizes, np.abs(centred))
    return np.asarray(np.maximum(sizes, least))


@dataclass(frozen=True, kw_only=True)
class GoldenAnswers:
    """The reference answers that engines are compared with.

    Attributes:
        logits: Logits of the reference, float32 (n, classes), one row per golden sample.
        class_ids: True class of each sample, or None.
        outputs: Meaning of the logits.
    """

    logits: Logits
    class_ids: tuple[int | None, ...]
    outputs: Outputs


def certify(
    logits: Logits, truth: GoldenAnswers, precision: Precision, gates: Gates
) -> tuple[Certificate, str]:
    """Compare an engine's logits and answers with those of the reference.

    With a sigmoid each label is judged by itself: whether its probability reaches the threshold
    (0.5 if the model has none). Without an activation the outputs are scores, which pass in fp32
    only: equal answers would not show that their sizes are kept.

    Args:
        logits: Logits of the engine, float32 (n, classes), of the same golden samples.
        truth: The reference answers.
        precision: Precision of the engine's computation.
        gates: The conditions.

    Returns:
        The certificate, and why the engine fails: empty if it passes.
    """
    reference, outputs = truth.logits, truth.outputs
    exact = precision == "fp32"
    tolerance = gates.fp32_tolerance if exact else None
    finite = bool(np.isfinite(logits).all())
    logits = np.nan_to_num(logits, nan=float(np.finfo(np.float32).max))
    scale = logit_scale(reference, outputs.activation)
    allowed = None if tolerance is None else tolerance * scale
    difference = np.abs(logits - reference)
    by_label, top1_agreement, probability_difference = None, None, None
    if outputs.activation == "sigmoid":
        by_label = _label_agreement(logits, reference, outputs, tolerance or 0)
    else:
        top1_agreement = _top1_agreement(logits, reference, allowed)
    if outputs.activation != "none":
        probabilities = activate(logits, outputs), activate(reference, outputs)
        probability_difference = _rounded(np.abs(probabilities[0] - probabilities[1]).max())
    certificate = Certificate(
        samples=len(reference),
        max_logit_difference=_rounded(difference.max()),
        max_probability_difference=probability_difference,
        tolerance=tolerance,
        top1_agreement=top1_agreement,
        label_agreement=None if by_label is None else float(by_label.min()),
        required_agreement=1.0 if exact else gates.min_agreement,
        accuracy=_accuracy(logits, truth),
        reference_accuracy=_accuracy(reference, truth),
        max_accuracy_loss=None if exact else gates.max_accuracy_loss,
    )
    if not finite:
        return certificate, "its logits contain NaN or infinity"
    if allowed is not None and (difference > allowed).any():
        worst = float((difference / scale).max())
        return certificate, f"a logit is off by {worst:.2g} (relative), allowed is {tolerance:.2g}"
    if not exact and outputs.activation == "none":
        return certificate, "scores, whose size counts, are served in fp32"
    return certificate, _agreement_failure(certificate, by_label)


def _agreement_failure(certificate: Certificate, by_label: npt.NDArray[np.float64] | None) -> str:
    if certificate.agreement < certificate.required_agreement:
        subject = "top-1 agrees"
        if by_label is not None:
            subject = f"the decision on label {by_label.argmin()} agrees"
        return (
            f"{subject} on {certificate.agreement:.1%} of the golden samples, "
            f"required is {certificate.required_agreement:.1%}"
        )
    if certificate.accuracy is None or certificate.max_accuracy_loss is None:
        return ""
    loss = (certificate.reference_accuracy or 0) - certificate.accuracy
    # Exactly the allowed loss passes, although 0.995 - 0.99 > 0.005 in binary.
    if loss > certificate.max_accuracy_loss + 1e-9:
        return f"accuracy falls by {loss:.2%}, allowed is {certificate.max_accuracy_loss:.2%}"
    return ""


def _top1_agreement(logits: Logits, reference: Logits, allowed: npt.NDArray[Any] | None) -> float:
    """Return the share of samples with the same top-1.

    Args:
        allowed: How far each logit may be off: near-ties count as equal. None if they do not.
    """
    same = logits.argmax(axis=1) == reference.argmax(axis=1)
    if allowed is not None and reference.shape[1] > 1:
        second, first = np.sort(reference, axis=1)[:, -2:].T
        best = reference.argmax(axis=1)[:, np.newaxis]
        same |= first - second <= 2 * np.take_along_axis(allowed, best, axis=1)[:, 0]
    return float(same.mean())


def _label_agreement(
    logits: Logits, reference: Logits, outputs: Outputs, tolerance: float
) -> npt.NDArray[np.float64]:
    """Return, for each label, the share of samples that are decided as by the reference.

    Logits within the tolerance of the threshold count as equal.
    """
    threshold = outputs.threshold or 0.5
    same = (sigmoid(logits) >= threshold) == (sigmoid(reference) >= threshold)
    if tolerance:
        distance = np.abs(reference - math.log(threshold / (1 - threshold)))
        same |= distance <= tolerance * logit_scale(reference)
    return np.asarray(same.mean(axis=0))


def count_right(answers: npt.NDArray[np.int64], class_ids: Sequence[int | None]) -> tuple[int, int]:
    """Return the number of right answers to labelled images, and of labelled images.

    Args:
        answers: Predicted class of each image, (n,).
        class_ids: True class of each image, or None.
    """
    labelled = [row for row, class_id in enumerate(class_ids) if class_id is not None]
    return sum(int(answers[row]) == class_ids[row] for row in labelled), len(labelled)


def _accuracy(logits: Logits, truth: GoldenAnswers) -> float | None:
    right, labelled = count_right(answered_classes(logits, truth.outputs), truth.class_ids)
    return right / labelled if labelled else None


def _rounded(value: float) -> float:
    """Keep three digits: the others are noise, and would change the digest of the evidence."""
    return float(f"{value:.3g}") if np.isfinite(value) else float(np.finfo(np.float32).max)
