"""From logits to ranked predictions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.artifact.manifest import Outputs


class DamagedLogits(Exception):
    """The logits contain NaN or infinity: the weights or the engine are damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One ranked class of a model whose outputs become probabilities.

    Attributes:
        label: Name of the class.
        class_id: Index of the label: that of its logit, too, unless one sigmoid output has two
            labels.
        probability: Softmax or sigmoid of its logit, in [0, 1]. The shortest decimal that is the
            same float32.
    """

    label: str
    class_id: int
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One ranked class of a model without activation, whose outputs are the answer.

    Attributes:
        label: Name of the class.
        class_id: Index of the label and of its output.
        score: The output itself, any number; higher ranks first. The shortest decimal that is the
            same float32.
    """

    label: str
    class_id: int
    score: float


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
    """Return the class that each row of logits (n, classes) answers first, shape (n,).

    It is that of the largest logit. One sigmoid output decides between two classes: the second
    where its probability reaches the threshold (more than 0.5, where there is none).
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

    With a threshold, only labels that reach it are returned, perhaps none. One sigmoid output
    with two labels is the probability of the second; the first has the rest. A threshold then
    chooses one of the two: the second if its probability reaches the threshold.

    Args:
        logits: float32, shape (classes,).
        labels: Label of each class, in the order of the logits; two for one sigmoid output.
        top_k: In 1..number of labels. Of equal logits the lower class id comes first.
        outputs: What the logits mean; softmax if None.

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
    chosen = np.ones(len(logits), bool)
    if outputs.threshold is not None:
        chosen = numbers >= outputs.threshold
        if binary:
            chosen[0] = not chosen[1]
    order = np.argsort(-logits, kind="stable")
    ranked = [
        (labels[class_id], class_id, float(str(np.float32(numbers[class_id]))))
        for class_id in order[chosen[order]][:top_k].tolist()
    ]
    if outputs.activation == "none":
        return tuple(Score(label=label, class_id=n, score=number) for label, n, number in ranked)
    return tuple(
        Prediction(label=label, class_id=n, probability=number) for label, n, number in ranked
    )
