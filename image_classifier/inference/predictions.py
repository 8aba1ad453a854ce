"""From logits to ranked predictions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class DamagedLogits(Exception):
    """The logits contain NaN or infinity: the weights or the engine are damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One ranked class.

    Attributes:
        label: Name of the class.
        class_id: Index of the class in the logits.
        probability: Softmax of its logit, in [0, 1], as the shortest decimal of the same float32.
    """

    label: str
    class_id: int
    probability: float


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return probabilities over the last axis, in float64, of the same shape.

    In float32 the smallest of 1000 classes would lose their digits. The largest logit is
    subtracted first, so that exp cannot overflow.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def top_k_predictions(
    logits: npt.NDArray[np.float32], labels: tuple[str, ...], top_k: int
) -> tuple[Prediction, ...]:
    """Return the `top_k` most probable classes of one image, most probable first.

    Args:
        logits: float32, shape (classes,).
        labels: Label of each class, in the order of the logits.
        top_k: In 1..classes. Of equal logits the lower class id comes first.

    Raises:
        DamagedLogits: A logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise DamagedLogits("logits contain NaN or infinity; the weights or the engine are damaged")
    probabilities = softmax(logits)
    ranked = np.argsort(-logits, kind="stable")[:top_k]
    return tuple(
        Prediction(
            label=labels[class_id],
            class_id=class_id,
            probability=float(str(np.float32(probabilities[class_id]))),
        )
        for class_id in ranked.tolist()
    )
