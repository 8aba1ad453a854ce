"""Compares an engine with the reference, and says whether it may serve."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import FrozenModel, Precision
from image_classifier.inference.engine import Logits

NEAR_TIE_TOLERANCES = 2
"""A top-1 that changes counts only where the reference's margin exceeds this many tolerances:
both logits may move by one."""

ROUNDING = 1e-9
"""Far below one sample of any golden set, far above the rounding of a difference of shares."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Gates(FrozenModel):
    """What an engine must fulfil to be certified.

    Attributes:
        fp32_tolerance: Largest |difference of a logit| of an fp32 engine, as a factor of
            max(1, |reference logit|).
        min_agreement: Share of golden samples whose top-1 a bf16, fp16 or int8 engine keeps.
        max_accuracy_loss: Share of labelled samples such an engine may lose.
    """

    fp32_tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    min_agreement: Share = 0.99
    max_accuracy_loss: Share = 0.005


def certify(
    logits: Logits,
    reference: Logits,
    class_ids: tuple[int | None, ...],
    precision: Precision,
    gates: Gates,
) -> tuple[Certificate, str]:
    """Compare an engine's logits with the reference's.

    Args:
        logits, reference: float32, shape (n, classes), same golden samples.
        class_ids: True class of each sample, None where unknown.

    Returns:
        The certificate, and why the engine fails: empty where it passes.
    """
    exact = precision == "fp32"
    scale = np.maximum(1, np.abs(reference))
    difference = np.abs(logits - reference)
    tolerance = gates.fp32_tolerance if exact else None
    certificate = Certificate(
        samples=len(reference),
        max_logit_difference=_rounded(difference.max()),
        tolerance=tolerance,
        top1_agreement=_agreement(logits, reference, tolerance or 0),
        required_agreement=1.0 if exact else gates.min_agreement,
        accuracy=_accuracy(logits, class_ids),
        reference_accuracy=_accuracy(reference, class_ids),
        max_accuracy_loss=None if exact else gates.max_accuracy_loss,
    )
    if not np.isfinite(logits).all():
        return certificate, "its logits contain NaN or infinity"
    if tolerance is not None and (difference > tolerance * scale).any():
        worst = float((difference / scale).max())
        return certificate, f"a logit is off by {worst:.2g} (relative), allowed is {tolerance:.2g}"
    return certificate, _agreement_failure(certificate)


def _agreement_failure(certificate: Certificate) -> str:
    if certificate.top1_agreement < certificate.required_agreement:
        return (
            f"top-1 agrees on {certificate.top1_agreement:.1%} of the golden samples, "
            f"required is {certificate.required_agreement:.1%}"
        )
    if certificate.accuracy is None or certificate.max_accuracy_loss is None:
        return ""
    loss = (certificate.reference_accuracy or 0) - certificate.accuracy
    # Exactly the allowed loss passes: 0.995 - 0.99 is a little more than 0.005 in binary.
    if loss > certificate.max_accuracy_loss + ROUNDING:
        return f"accuracy falls by {loss:.2%}, allowed is {certificate.max_accuracy_loss:.2%}"
    return ""


def answered_classes(logits: Logits) -> npt.NDArray[np.int64]:
    """Return the class that each row of logits (n, classes) answers first, shape (n,).

    It is that of the largest logit. A single logit is that of a sigmoid between two classes: it
    answers the second where it is positive, else the first.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return np.asarray(logits.argmax(axis=1))


def _agreement(logits: Logits, reference: Logits, tolerance: float) -> float:
    same = answered_classes(logits) == answered_classes(reference)
    if tolerance and reference.shape[1] > 1:
        second, first = np.sort(reference, axis=1)[:, -2:].T
        allowed = NEAR_TIE_TOLERANCES * tolerance * np.maximum(1, np.abs(first))
        same |= first - second <= allowed
    return float(same.mean())


def _accuracy(logits: Logits, class_ids: tuple[int | None, ...]) -> float | None:
    known = np.array([class_id is not None for class_id in class_ids])
    if not known.any():
        return None
    truth = np.array([-1 if class_id is None else class_id for class_id in class_ids])
    right: npt.NDArray[np.bool_] = answered_classes(logits)[known] == truth[known]
    return float(right.mean())


def _rounded(value: float) -> float:
    """Keep three digits: the rest is noise, and would change the digest of the evidence."""
    return float(f"{value:.3g}") if np.isfinite(value) else float(np.finfo(np.float32).max)
