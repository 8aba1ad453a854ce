"""From logits to ranked predictions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.manifest import Outputs


class DamagedLogits(Exception):
    """The logits contain NaN or infinity: the weights or the engine are damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One ranked class.

    Attributes:
        label: Name of the class.
        class_id: Index of the label: that of its logit, too, unless one sigmoid output has two
            labels.
        probability: Softmax or sigmoid of its logit, in [0, 1]; the logit itself if the outputs
            have no activation. The shortest decimal that is the same float32.
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


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) of each logit, computed in float64 without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))


def top_k_predictions(
    logits: npt.NDArray[np.float32],
    labels: tuple[str, ...],
    top_k: int,
    outputs: Outputs | None = None,
) -> tuple[Prediction, ...]:
    """Return the `top_k` most probable labels of one image, most probable first.

    With a threshold, only labels that reach it are returned, perhaps none. One sigmoid output
    with two labels is the probability of the second; the first has the rest. A threshold then
    chooses one of the two: the second if its probability reaches the threshold.

    Args:
        logits: float32, shape (classes,).
        labels: Label of each class, in the order of the logits; two for one sigmoid output.
        top_k: In 1..number of labels. Of equal logits the lower class id comes first.
        outputs: What the logits mean; softmax if None.

    Raises:
        DamagedLogits: A logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise DamagedLogits("logits contain NaN or infinity; the weights or the engine are damaged")
    outputs = outputs or Outputs()
    binary = outputs.activation == "sigmoid" and len(logits) == 1 and len(labels) == 2
    scores = np.concatenate([-logits, logits]) if binary else logits
    match outputs.activation:
        case "softmax":
            probabilities = softmax(scores)
        case "sigmoid":
            probabilities = sigmoid(scores)
        case "none":
            probabilities = scores.astype(np.float64)
    chosen = np.ones(len(scores), bool)
    if outputs.threshold is not None:
        chosen = probabilities >= outputs.threshold
        if binary:
            chosen[0] = not chosen[1]
    order = np.argsort(-scores, kind="stable")
    ranked = order[chosen[order]][:top_k].tolist()
    return tuple(
        Prediction(
            label=labels[class_id],
            class_id=class_id,
            probability=float(str(np.float32(probabilities[class_id]))),
        )
        for class_id in ranked
    )
