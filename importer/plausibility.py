"""Whether a model and its evidence make sense together: findings before anything is written."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from image_classifier.inference.certificate import answered_classes
from importer.errors import ImportRefused
from importer.options import FindingName

Logits = npt.NDArray[np.float32]
Targets = Sequence[int | None]
RARE = 0.02
"""Probability below which chance does not explain what was seen. Six images that all speak for
one of two explanations reach it (1/64), five do not (1/32)."""
REPEAT_TOLERANCE = 1e-5
"""Times max(1, |logit|). One image, one thread: torch repeats the same bits; a runtime that sums
in another order stays below this."""
BATCH_TOLERANCE = 1e-3
"""Times max(1, |logit|), the tolerance of the fp32 gate. Measured: batches of 1 to 100 of trained
fp32 networks differ by less than 1e-5."""
SAME_LOGITS = 1e-3
"""Range of a logit over the images ÷ standard deviation of the logits of one image. Trained
networks have 8 and more, networks with random weights rarely less than 1e-3."""
PAIRED_IMAGES = 8
"""Images that also run together in one batch. One pair would do to see batch normalisation in
training mode; eight also see what depends on the position."""
CHANNEL_ORDER_IMAGES = 64
"""Most images that also run with their channels swapped."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that makes the import implausible.

    Attributes:
        name: What the person importing accepts with `--accept NAME`.
        message: What was found, the likely cause and what to do, in one line.
    """

    name: FindingName
    message: str


def check_findings(findings: Iterable[Finding | None], accepted: Sequence[str]) -> list[str]:
    """Raise for findings that are not accepted; return a note for each of the others.

    Raises:
        ImportRefused: All findings that are not accepted, each with the option that accepts it.
    """
    found = [finding for finding in findings if finding is not None]
    refused = [finding for finding in found if finding.name not in accepted]
    if refused:
        raise ImportRefused(
            "; ".join(
                f"{finding.message}; if that is as it should be: --accept {finding.name}"
                for finding in refused
            )
        )
    return [f"accepted ({finding.name}): {finding.message}" for finding in found]


# -------------------------------------------------------------------------- preprocessing


def mean_std_scale(mean: Sequence[float] | None, std: Sequence[float] | None) -> Finding | None:
    """Find means or standard deviations of pixels in [0, 255] where [0, 1] is expected.

    Args:
        mean: Per channel; None where the preprocessing normalises by itself.
        std: Per channel.

    The mean of values in [0, 1] lies in [0, 1]; their standard deviation is at most 0.5, and 1
    means that none is applied.
    """
    if mean is None or std is None:
        return None
    odd_mean = any(not 0 <= value <= 1 for value in mean)
    odd_std = any(not 0 < value <= 1 for value in std)
    if not odd_mean and not odd_std:
        return None
    scaled_mean = [round(value / 255, 6) for value in mean] if odd_mean else list(mean)
    # With pixels in [0, 255], a std of 1 means "not scaled": it is divided as well.
    scale_std = odd_std or all(value == 1 for value in std)
    scaled_std = [round(value / 255, 6) for value in std] if scale_std else list(std)
    hint = f"divide by 255: mean {scaled_mean}, std {scaled_std}"
    if any(value < 0 for value in (*mean, *std)):
        hint = "a mean or std of such pixels is never negative"
    return Finding(
        name="mean-std-scale",
        message=(
            f"preprocessing: mean {list(mean)}, std {list(std)} are not of pixels in [0, 1], "
            f"which they are applied to; {hint}"
        ),
    )


def input_range(inputs: npt.NDArray[np.generic]) -> Finding | None:
    """Find float32 inputs whose values hardly differ: pixels that were scaled twice.

    Args:
        inputs: Golden inputs (n, H, W, C). uint8 inputs are normalised in the graph.

    Pixels in [0, 1], [-1, 1] or divided by a std span 1 and more over some images; scaled by
    255 once too often they span at most 0.02. Evenly coloured images may span little too.
    """
    if inputs.dtype != np.float32:
        return None
    low, high = float(inputs.min()), float(inputs.max())
    if not 0 < high - low < 0.05:
        return None
    return Finding(
        name="mean-std-scale",
        message=(
            f"preprocessing: all values of all golden inputs lie between {low:.4g} and "
            f"{high:.4g}; likely cause: pixels are divided by 255 twice, or mean and std are of "
            "pixels in [0, 255] and applied to pixels in [0, 1]"
        ),
    )


def random_preprocessing(
    names: Sequence[str],
    first: npt.NDArray[np.generic],
    second: npt.NDArray[np.generic],
) -> Finding | None:
    """Find images that the preprocessing turns into another input when it runs again.

    Args:
        names: Of the golden images.
        first: Their inputs (n, H, W, C).
        second: Their inputs, made again.
    """
    differ = [
        name
        for name, one, other in zip(names, first, second, strict=True)
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    ]
    if not differ:
        return None
    return Finding(
        name="random-preprocessing",
        message=(
            f"preprocessing: to_input gives another input when it runs again on {len(differ)} of "
            f"{len(names)} golden images, {differ[0]} the first; likely cause: an augmentation of "
            "the training (RandomResizedCrop, RandomHorizontalFlip, ColorJitter); use the "
            "transforms of the evaluation"
        ),
    )


# -------------------------------------------------------------------------- the reference


def unstable_reference(first: Logits, second: Logits) -> Finding | None:
    """Find a network that answers the same images differently when it runs again.

    Args:
        first: Logits of some images, (n, classes).
        second: Logits of the same images, computed again.
    """
    excess = _excess(first, second, REPEAT_TOLERANCE)
    if excess <= 0:
        return None
    return Finding(
        name="unstable-reference",
        message=(
            "network: it answers differently each time: logits of one image differ by up to "
            f"{np.abs(first - second).max():.3g} between two runs; likely cause: dropout, "
            "stochastic depth or noise that is active in evaluation mode, such as "
            "functional.dropout(x) without training=self.training"
        ),
    )


def batch_dependent(single: Logits, batched: Logits | None) -> Finding | None:
    """Find a network whose answer to an image depends on the others in its batch.

    Args:
        single: Logits of some images, each computed alone, (n, classes).
        batched: Logits of the same images, computed as one batch; None where it takes no batch.
    """
    if batched is None or _excess(single, batched, BATCH_TOLERANCE) <= 0:
        return None
    return Finding(
        name="batch-dependent",
        message=(
            "network: its answer to an image depends on the other images of the batch: logits "
            f"differ by up to {np.abs(single - batched).max():.3g}; likely cause: batch "
            "normalisation in training mode (train() called in forward, or "
            "track_running_stats=False), or a sum, mean or softmax over the batch dimension"
        ),
    )


def run_batch(network: nn.Module, inputs: npt.NDArray[np.generic]) -> Logits | None:
    """Return the logits of all inputs (n, H, W, C) computed as one batch.

    None where the network takes no batch, or answers with another shape: single images are
    what an import demands.
    """
    # The network may be the user's own program: it can raise anything.
    try:
        with torch.inference_mode():
            output = network(torch.from_numpy(np.array(inputs)))
    except Exception:
        return None
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(inputs):
        return None
    return np.asarray(output.float().numpy())


def constant_logits(logits: Logits, inputs: npt.NDArray[np.generic]) -> Finding | None:
    """Find a network that gives every image (nearly) the same logits.

    Args:
        logits: (n, classes).
        inputs: (n, H, W, C); copies of one image prove nothing.
    """
    if all(np.array_equal(inputs[0], other) for other in inputs[1:]):
        return None
    rows = logits.astype(np.float64)
    differences = float(np.ptp(rows, axis=0).max())
    spread = float(rows.std(axis=1).mean()) if rows.shape[1] > 1 else float(np.abs(rows).max())
    if differences > SAME_LOGITS * spread:
        return None
    return Finding(
        name="constant-logits",
        message=(
            f"network: all {len(rows)} golden images get nearly the same logits (they differ by "
            f"at most {differences:.2g}), so nothing about them is proven; likely cause: "
            "weights that were not trained or not loaded, or a preprocessing that scales the "
            "pixels wrongly"
        ),
    )


OutputKind = Literal["one", "unit-interval", "probabilities", "log-probabilities", "logits"]


def output_kind(outputs: Logits) -> OutputKind:
    """Say what the outputs (n, classes) on the golden images look like.

    "one": a single output, so that a softmax over classes is always 1. "unit-interval": all
    in [0, 1], without the rows summing to 1: a sigmoid is in the network. "probabilities": all
    in [0, 1], rows sum to 1. "log-probabilities": none above 0, and their exponentials sum
    to 1.
    """
    rows = outputs.astype(np.float64)
    in_unit_interval = bool(((rows >= 0) & (rows <= 1)).all())
    if rows.shape[1] == 1:
        return "unit-interval" if in_unit_interval else "one"
    if in_unit_interval:
        sums_to_one = np.abs(rows.sum(axis=1) - 1) < 1e-3
        # Logits of dead or untrained networks are all zero: no sigmoid gives that.
        if sums_to_one.all():
            return "probabilities"
        return "unit-interval" if rows.max() > 0 else "logits"
    if (rows <= 0).all() and (np.abs(np.exp(rows).sum(axis=1) - 1) < 1e-3).all():
        return "log-probabilities"
    return "logits"


def check_activation(kind: OutputKind, activation: str, *, asked: str | None) -> None:
    """Refuse an activation that the outputs contradict, or that they leave open.

    Args:
        kind: What the outputs look like, see `output_kind`.
        activation: What would be applied to them.
        asked: What the operator said of them; None: nothing.

    Raises:
        ImportRefused: With the options to choose from.
    """
    as_they_are = "serve the outputs as they are with --activation none"
    if kind == "one" and activation == "softmax":
        raise ImportRefused(
            "network: has one output, whose softmax is 1 for every image; say what it is: "
            "--activation sigmoid (a logit; with two labels it is that of the second), or "
            "--activation none (a score)"
        )
    if kind == "unit-interval" and asked is None:
        raise ImportRefused(
            "network: its outputs all lie in [0, 1] and no row sums to 1, so it seems to end in a "
            "sigmoid; leave that out of the network and add --activation sigmoid, or "
            f"{as_they_are}"
        )
    if kind == "probabilities" and activation != "none":
        raise ImportRefused(
            "network: its outputs on the golden images are probabilities, expected logits; leave "
            f"its softmax out, else the service would apply another one, or {as_they_are}"
        )


# -------------------------------------------------------------------------- the labels


def count_right(logits: Logits, targets: Targets) -> tuple[int, int]:
    """Return how many labelled images are classified right, and how many are labelled."""
    labelled = [row for row, target in enumerate(targets) if target is not None]
    answers = answered_classes(logits)
    return sum(int(answers[row]) == targets[row] for row in labelled), len(labelled)


def chance_of(hits: int, images: int, classes: int) -> float:
    """Return the probability that guessing one of `classes` gives `hits` or more."""
    return _at_least(hits, images, 1 / classes)


def implausible_labels(logits: Logits, targets: Targets, labels: Sequence[str]) -> Finding | None:
    """Find labels in another order than the network's, or answers no better than guessing.

    Args:
        logits: (n, classes).
        targets: Index of the true class of each image, or None.
        labels: Names of the classes, in the order of the logits.
    """
    rows = [row for row, target in enumerate(targets) if target is not None]
    if not rows:
        return None
    answers = answered_classes(logits)[rows]
    truth = np.array([targets[row] for row in rows])
    classes = logits.shape[1]
    right, images = int((answers == truth).sum()), len(rows)
    return (
        _known_order(answers, truth, labels)
        or _permutation(answers, truth, labels)
        or _chance(right, images, classes)
    )


def _chance(right: int, images: int, classes: int) -> Finding | None:
    # Two conditions: guessing explains the hits, and a network half-way between guessing and
    # perfect would hardly ever have so few. With a few images only, neither can be told.
    halfway = (1 + 1 / classes) / 2
    if classes < 2 or chance_of(right, images, classes) <= 0.01:
        return None
    if 1 - _at_least(right + 1, images, halfway) > 0.05:
        return None
    return Finding(
        name="chance-accuracy",
        message=(
            f"the reference is right on {right} of {images} labelled golden images; guessing one "
            f"of {classes} classes gives {images / classes:.2g}; likely cause: the order of the "
            "labels, the preprocessing, weights that were not trained, or wrong classes of the "
            "images"
        ),
    )


def _known_order(
    answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], labels: Sequence[str]
) -> Finding | None:
    """Compare with the usual orders: these need no more than one image a class."""
    count = len(labels)
    positions = list(range(count))
    orders = {
        "sorted as text, as ImageFolder sorts its folders": sorted(
            positions, key=labels.__getitem__
        ),
        "sorted without regard to case": sorted(positions, key=lambda p: labels[p].lower()),
        "reversed": positions[::-1],
        "shifted by one (the first label is class 1)": [positions[-1], *positions[:-1]],
        "shifted by one (the second label is class 0)": [*positions[1:], positions[0]],
    }
    for words, order in orders.items():
        # order[class of the network] = position of its label in the file
        explained = np.array(order)[answers] == truth
        if _explains(explained, answers == truth):
            names = ", ".join(repr(labels[position]) for position in order[:3])
            return _permuted(
                int(explained.sum()), answers, truth, f"{words}: {names}{', …' * (count > 3)}"
            )
    return None


def _permutation(
    answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], labels: Sequence[str]
) -> Finding | None:
    """Look for any permutation: found on one half of the images, it must explain the other."""
    seen: Counter[int] = Counter()
    halves = np.zeros(len(truth), dtype=bool)
    for row, target in enumerate(truth):  # images of a class go to the halves in turn
        halves[row] = seen[int(target)] % 2 == 0
        seen[int(target)] += 1
    explained = np.zeros(len(truth), dtype=bool)
    for half in (halves, ~halves):
        mapping = _best_mapping(answers[~half], truth[~half])
        explained[half] = [
            mapping.get(int(answer), int(answer)) == target
            for answer, target in zip(answers[half], truth[half], strict=True)
        ]
    if not _explains(explained, answers == truth):
        return None
    mapping = _best_mapping(answers, truth)
    moved = {answer: target for answer, target in mapping.items() if answer != target}
    shown = ", ".join(
        f"class {answer} is {labels[target]!r}, not {labels[answer]!r}"
        for answer, target in sorted(moved.items())[:3]
    )
    return _permuted(int(explained.sum()), answers, truth, f"{shown}{', …' * (len(moved) > 3)}")


def _best_mapping(answers: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> dict[int, int]:
    """Return the one-to-one map of answered classes to true classes that most images follow."""
    counts = Counter(zip(answers.tolist(), truth.tolist(), strict=True))
    mapping: dict[int, int] = {}
    # The most frequent pairs first; where images do not tell, a class stays what it is.
    for (answer, target), _ in sorted(
        counts.items(), key=lambda item: (-item[1], item[0][0] != item[0][1], item[0])
    ):
        if answer not in mapping and target not in mapping.values():
            mapping[answer] = target
    return mapping


def _permuted(
    explained: int,
    answers: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    order: str,
) -> Finding:
    return Finding(
        name="permuted-labels",
        message=(
            f"labels: the reference is right on {int((answers == truth).sum())} of {len(truth)} "
            f"labelled golden images, and would be on {explained} with the labels in another "
            f"order ({order}); give the labels in the order of the training"
        ),
    )


def channel_order(logits: Logits, swapped: Logits, targets: Targets) -> Finding | None:
    """Find a network that classifies images better with their channels reversed.

    Args:
        logits: (n, classes).
        swapped: The same for inputs with the channels in reverse order; NaN for images that did
            not run.
        targets: Index of the true class of each image, or None.
    """
    rows = [
        row
        for row, target in enumerate(targets)
        if target is not None and np.isfinite(swapped[row]).all()
    ]
    if not rows:
        return None
    truth = np.array([targets[row] for row in rows])
    given = answered_classes(logits[rows]) == truth
    other = answered_classes(swapped[rows]) == truth
    if not _explains(other, given):
        return None
    return Finding(
        name="channel-order",
        message=(
            f"preprocessing: the reference is right on {given.sum()} of {len(rows)} labelled "
            f"golden images as they are, and on {other.sum()} with red and blue exchanged; "
            "likely cause: the network was trained on BGR images (cv2.imread); write a "
            "preprocessing class that reverses the channels"
        ),
    )


def rows_to_swap(logits: Logits, targets: Targets) -> list[int]:
    """Return the labelled images that are worth running with swapped channels.

    None where less than a quarter is classified wrong, or too few to tell anything: most
    imports do not pay for the check. Swapped channels cost a trained network more than that.
    """
    answers = answered_classes(logits)
    labelled = [row for row, target in enumerate(targets) if target is not None]
    wrong = sum(int(answers[row]) != targets[row] for row in labelled)
    if 4 * wrong < len(labelled) or _at_least(wrong, wrong, 0.5) > RARE:
        return []
    return labelled[:: math.ceil(len(labelled) / CHANNEL_ORDER_IMAGES)]


# -------------------------------------------------------------------------- what it rests on


def what_the_proof_rests_on(
    logits: Logits,
    targets: Targets,
    *,
    reference_given: bool,
    accepted: Sequence[str] = (),
) -> list[str]:
    """Say in words what is proven of an import, and what is not.

    Args:
        logits: The reference's, (n, classes).
        targets: Index of the true class of each golden image, or None.
        reference_given: Whether the numbers of a notebook were compared.
        accepted: Findings that were accepted.
    """
    right, images = count_right(logits, targets)
    sentences = []
    if images:
        sentences.append(
            f"reference: {right} of {images} labelled images right ({right / images:.1%})"
        )
    else:
        sentences.append(
            "no golden image is labelled: that the labels are in the right order and the "
            "preprocessing is the one of the training is unproven"
        )
    if reference_given:
        sentences.append(f"the notebook's numbers are reproduced on {len(logits)} golden images")
    else:
        sentences.append(
            "no --reference: that the notebook's numbers are these is unproven "
            "(python -m importer.notebook shows how to save them)"
        )
    if accepted:
        sentences.append(f"accepted without proof: {', '.join(sorted(accepted))}")
    return sentences


def _excess(first: Logits, second: Logits, tolerance: float) -> float:
    """Return by how much the largest difference exceeds tolerance × max(1, |logit|)."""
    allowed = tolerance * np.maximum(1, np.abs(first))
    return float((np.abs(first - second) - allowed).max())


def _explains(other: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> bool:
    """Say whether one explanation is right so much oftener than the other that chance is no reason.

    The images on which the two disagree would go either way if both were as good (McNemar's
    exact test).
    """
    gained, lost = int((other & ~given).sum()), int((given & ~other).sum())
    return gained > lost and _at_least(gained, gained + lost, 0.5) <= RARE


def _at_least(hits: int, trials: int, probability: float) -> float:
    """Return the probability of `hits` or more in independent trials (binomial)."""
    return math.fsum(
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(count + 1)
            - math.lgamma(trials - count + 1)
            + count * math.log(probability)
            + (trials - count) * math.log1p(-probability)
        )
        for count in range(max(hits, 0), trials + 1)
    )
