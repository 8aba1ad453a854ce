"""From logits to ranked predictions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.manifest import Outputs


class DamagedLogits(Exception):
    """The logits contain NaN or infinity: the weights or the engine are damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A ranked class with its probability.

    Attributes:
        label: Name of the class.
        class_id: Index of the label, and of its logit unless one sigmoid output has two labels.
        probability: Softmax or sigmoid of its logit, in [0, 1]: the shortest decimal of the same
            float32.
    """

    label: str
    class_id: int
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A ranked class of a model without activation.

    Attributes:
        label: Name of the class.
        class_id: Index of the label and of its output.
        score: The output, any number; higher ranks first. The shortest decimal of the same float32.
    """

    label: str
    class_id: int
    score: float


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return probabilities over the last axis, in float64, in the same shape.

    In float32 the smallest of 1000 classes would lose their digits. Subtracting the largest logit
    prevents an overflow of exp.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) of each logit, computed in float64 without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))


def activate(logits: npt.NDArray[np.float32], outputs: Outputs) -> npt.NDArray[np.float64]:
    """Return the probabilities, or the scores, of logits (…, classes), in float64."""
    match outputs.activation:
        case "softmax":
            return softmax(logits)
        case "sigmoid":
            return sigmoid(logits)
        case "none":
            return logits.astype(np.float64)


def answered_classes(logits: npt.NDArray[np.float32], outputs: Outputs) -> npt.NDArray[np.int64]:
    """Return the top-1 class of each row of logits (n, classes), shape (n,).

    One sigmoid output decides between two classes: the second if its probability reaches the
    threshold (or exceeds 0.5 if there is none).
    """
    if logits.shape[1] == 1:
        if outputs.threshold is None:
            return (logits[:, 0] > 0).astype(np.int64)
        return (sigmoid(logits)[:, 0] >= outputs.threshold).astype(np.int64)
    return np.asarray(logits.argmax(axis=1))


def top_k_predictions(
    logits: npt.NDArray[np.float32],
    labels: tuple[str, ...],
    top_k: int,
    outputs: Outputs | None = None,
) -> tuple[Prediction | Score, ...]:
    """Return the `top_k` most probable labels of one image, most probable first.

    With a threshold, only labels that reach it are returned, perhaps none. If one sigmoid output
    has two labels, it is the probability of the second, and the first has the rest; a threshold
    then selects the second label if its probability reaches it, else the first.

    Args:
        logits: float32, shape (classes,).
        labels: Label of each class, in the order of the logits; one sigmoid output may have two.
        top_k: In 1..number of labels. Equal logits are ranked by class id.
        outputs: Meaning of the logits; softmax if None.

    Returns:
        Scores if the outputs have no activation, else predictions.

    Raises:
        DamagedLogits: A logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise DamagedLogits("logits contain NaN or infinity; the weights or the engine are damaged")
    outputs = outputs or Outputs()
    binary = outputs.activation == "sigmoid" and len(logits) == 1 and len(labels) == 2
    if binary:
        logits = np.concatenate([-logits, logits])
    numbers = activate(logits, outputs)
    order = np.argsort(-logits, kind="stable")
    if outputs.threshold is not None:
        chosen = numbers >= outputs.threshold
        if binary:
            chosen[0] = not chosen[1]
        order = order[chosen[order]]
    ranked = [
        (labels[class_id], class_id, float(str(np.float32(numbers[class_id]))))
        for class_id in order[:top_k].tolist()
    ]
    if outputs.activation == "none":
        return tuple(Score(label=label, class_id=n, score=number) for label, n, number in ranked)
    return tuple(
        Prediction(label=label, class_id=n, probability=number) for label, n, number in ranked
    )
