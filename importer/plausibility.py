"""Checks whether a model, its labels and its golden images make sense together.

A check returns a finding or None; `check_findings` refuses findings that are not accepted. Common
arguments: `network` is `PixelsToLogits` in evaluation mode, `inputs` the golden inputs
(n, H, W, C), `logits` the reference's for them, float32 (n, classes), `answers` the class that the
reference answers for each image, (n,), `targets` the true class of each image, or None, and
`labels` the names of the classes in the order of the logits.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import bdtrc
from torch import nn

from image_classifier.artifact.manifest import Outputs
from image_classifier.inference.certificate import logit_scale
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.predictions import answered_classes
from importer.errors import ImportRefused
from importer.extreme_images import ExtremeImages
from importer.network import run_network
from importer.options import FindingName
from importer.pixels_to_logits import run_reference

Classes = npt.NDArray[np.int64]
TrueClasses = Sequence[int | None]
RARE = 0.02
"""Probability below which chance is ruled out. Six images that all favour one of two explanations
reach it (1/64), five do not (1/32)."""
REPEAT_TOLERANCE = 1e-5
"""Allowed difference between two runs, as a factor of `logit_scale`: some runtimes sum in varying
order. torch repeats the same bits with one image and one thread."""
BATCH_TOLERANCE = 1e-3
"""Allowed difference between single and batched runs, as a factor of `logit_scale`, as in the fp32
gate. Trained networks differ by less than 1e-5."""
SAME_LOGITS = 1e-3
"""Range of a logit over the images ÷ standard deviation of the logits of one image. Trained
networks have 8 and more, networks with random weights rarely less than 1e-3."""
PAIRED_IMAGES = 4
"""Golden images, and as many extreme ones, that also run in one batch. A pair would show batch
normalisation in training mode; four also show a dependence on the position."""
SUM_TOLERANCE = 1e-3
"""Allowed difference of a sum of probabilities from 1, for 1000 classes in half precision."""


class Finding(NamedTuple):
    """A reason to doubt the import.

    Attributes:
        name: For `--accept NAME`.
        message: One line: the finding, its likely cause and the remedy.
    """

    name: FindingName
    message: str


def check_findings(
    *findings: Finding | None, accepted: Sequence[str], note: Callable[[str], None]
) -> None:
    """Note accepted findings; raise for the others.

    Raises:
        ImportRefused: With all findings that are not accepted, and the options that accept them.
    """
    found = [finding for finding in findings if finding is not None]
    refused = [finding for finding in found if finding.name not in accepted]
    if refused:
        raise ImportRefused(
            "; ".join(
                f"{message}; if this is intended: --accept {name}" for name, message in refused
            )
        )
    for name, message in found:
        note(f"accepted ({name}): {message}")


def mean_std_scale(mean: Sequence[float] | None, std: Sequence[float] | None) -> Finding | None:
    """Find means or standard deviations of pixels in [0, 255] where [0, 1] is expected.

    Args:
        mean: Per channel; None if the preprocessing itself normalises.
        std: Per channel.
    """
    if mean is None or std is None:
        return None
    if 0 <= min(mean) <= max(mean) <= 1 and 0 < min(std) <= max(std) <= 1:
        return None
    return Finding(
        "mean-std-scale",
        f"preprocessing: mean {list(mean)}, std {list(std)} are not of pixels in [0, 1], to which "
        "they are applied; expected means in [0, 1], stds above 0 and at most 1; divide by 255 "
        "what was computed from pixels in [0, 255]",
    )


def normalised_twice(
    network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Finding | None:
    """Find a buffer or an attribute of a module that equals the preprocessing's mean or std."""
    if mean is None or std is None:
        return None
    usual = (("mean", mean, 0.0), ("std", std, 1.0))
    expected = [(name, numbers) for name, numbers, none in usual if set(numbers) != {none}]
    held: dict[str, Any] = dict(network.named_buffers())
    for prefix, module in network.named_modules():
        held |= {f"{prefix}.{name}".strip("."): item for name, item in vars(module).items()}
    for place, item in held.items():
        if not isinstance(item, (torch.Tensor, np.ndarray, list, tuple)):
            continue
        with suppress(Exception):  # a list may hold anything, and numpy asks each item
            found = np.asarray(item)
            if found.size != len(mean):
                continue
            for name, numbers in expected:
                # A number repeated for each channel, such as 0.5, may be anything.
                told_apart = len(set(numbers)) > 1 or re.search("mean|std|norm", place.lower())
                if told_apart and np.allclose(found.ravel(), numbers, rtol=0, atol=1e-3):
                    return Finding(
                        "mean-std-scale",
                        f"network: {place} is the {name} of the preprocessing, {list(numbers)}; "
                        "likely cause: the network normalises pixels itself, so they would be "
                        "normalised twice; give the preprocessing mean 0 and std 1 for each "
                        "channel",
                    )
    return None


def input_range(inputs: Batch) -> Finding | None:
    """Find float32 inputs whose values hardly differ: pixels that were scaled twice.

    Over some images, pixels in [0, 1], in [-1, 1] or divided by a std span at least 1; divided by
    255 once more they span at most 0.02.
    """
    low, high = float(inputs.min()), float(inputs.max())
    if inputs.dtype != np.float32 or not 0 < high - low < 0.05:
        return None
    return Finding(
        "mean-std-scale",
        f"preprocessing: all values of all golden inputs lie between {low:.4g} and "
        f"{high:.4g}; likely cause: pixels are divided by 255 twice, or mean and std are of "
        "pixels in [0, 255] and applied to pixels in [0, 1]",
    )


THREADS = 4
"""Threads that run a preprocessing class at the same time, as in the service."""
FURTHER_RUNS = 100
"""Runs after each image ran once more; they show an augmentation of probability 0.05 with 99 %."""
REPEAT_S = 0.3
"""Seconds for which fast classes run again and again, as their calls rarely meet."""


def check_repeatable(inputs: Batch, again: Callable[[int], Batch]) -> None:
    """Check that several threads make the same inputs of the golden images again.

    This cannot be accepted, because each start compares the inputs with those of the import.

    Args:
        again: Makes the input of image number `row` again.

    Raises:
        ImportRefused: Inputs differ.
    """

    def differs(row: int) -> bool:
        return not np.array_equal(inputs[row], again(row), equal_nan=True)

    rows = [number % len(inputs) for number in range(len(inputs) + FURTHER_RUNS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads disturb each other as often as possible
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            end_s = time.monotonic() + REPEAT_S
            differences = sum(pool.map(differs, rows))
            while not differences and time.monotonic() < end_s:
                differences = sum(pool.map(differs, rows))
    finally:
        sys.setswitchinterval(interval)
    if differences:
        raise ImportRefused(
            f"preprocessing: to_input gives another input in {differences} of {len(rows)} repeated "
            "runs, some of them at the same time, as in the service; likely cause: an augmentation "
            "of the training (RandomResizedCrop, RandomHorizontalFlip, ColorJitter), or an array "
            "or cache that all calls share; use the transforms of the evaluation, and make arrays "
            "in to_input"
        )


def unstable_network(
    network: nn.Module,
    inputs: Batch,
    logits: Logits,
    extreme: ExtremeImages | None = None,
    *,
    takes_batches: bool,
) -> Finding | None:
    """Find a network that answers the same images differently in a second run or in a batch.

    The batch also holds extreme images, because golden images may be too similar to show it.
    """
    inputs, logits = inputs[:PAIRED_IMAGES], logits[:PAIRED_IMAGES]
    if extreme is not None:
        inputs = np.concatenate([inputs, extreme.inputs[extreme.finite][:PAIRED_IMAGES]])
        logits = np.concatenate([logits, extreme.logits[extreme.finite][:PAIRED_IMAGES]])

    def run() -> Logits:
        if takes_batches:
            return run_network(network, torch.from_numpy(np.array(inputs)), None).numpy()
        return run_reference(network, inputs)

    answers = run()
    if _relative(logits, answers) <= BATCH_TOLERANCE:
        return None
    again = run()
    if takes_batches and _relative(answers, again) <= REPEAT_TOLERANCE:
        return Finding(
            "batch-dependent",
            "network: its answer to an image depends on the other images of the batch: logits "
            f"differ by up to {np.abs(logits - answers).max():.3g}; likely cause: batch "
            "normalisation in training mode (train() called in forward, or "
            "track_running_stats=False), or a sum, mean, maximum or softmax over the batch "
            "dimension",
        )
    return Finding(
        "unstable-reference",
        "network: it answers differently each time: logits of an image differ by up to "
        f"{np.abs(logits - answers).max():.3g} between two runs; likely cause: dropout, "
        "stochastic depth or noise in evaluation mode, such as "
        "functional.dropout(x) without training=self.training; or a buffer that forward changes: "
        "observers of a fake quantisation, or a trace without model.eval() before",
    )


def check_rebuilt(network: nn.Module, inputs: Batch, logits: Logits) -> None:
    """Check that a network that was built again answers as it did at first.

    This cannot be accepted, because what the network had during training is lost.

    Args:
        network: Built again, with the same weights.

    Raises:
        ImportRefused: Its logits differ.
    """
    # In the other order, since a network may set itself up with its first image.
    again = run_reference(network, inputs[:PAIRED_IMAGES][::-1], finite=False)[::-1]
    if not _relative(logits[:PAIRED_IMAGES], again) <= REPEAT_TOLERANCE:  # NaN differs
        raise ImportRefused(
            "network: built again with the same weights, it answers differently: it makes "
            "something at random that is not in the weights (a tensor that is no parameter or "
            "persistent buffer, a layer in a plain list, a permutation); register it "
            "(register_buffer, nn.ModuleList) and save the weights again, or fix the seed where "
            "it is made; or it sets itself up with its first image: make the mark that it has done "
            "so a buffer"
        )


def _relative(first: Logits, second: Logits) -> float:
    """Return the largest difference, as a factor of `logit_scale`."""
    return float((np.abs(first - second) / logit_scale(first)).max())


def constant_logits(logits: Logits, inputs: Batch, outputs: Outputs) -> Finding | None:
    """Find a network that gives every image nearly the same logits.

    Scores that differ little are compared with their size; before a softmax or a sigmoid, logits
    that differ little give nearly the same probabilities, however small they are.
    """
    if all(np.array_equal(inputs[0], item) for item in inputs[1:]):  # copies of one image
        return None
    rows = logits.astype(np.float64)
    differences = float(np.ptp(rows, axis=0).max())
    spread = float(rows.std(axis=1).mean()) if rows.shape[1] > 1 else float(np.abs(rows).max())
    if outputs.activation != "none":
        spread = max(spread, 1.0)
    if differences > SAME_LOGITS * spread:
        return None
    return Finding(
        "constant-logits",
        f"network: all {len(rows)} golden images get nearly the same logits (they differ by "
        f"at most {differences:.2g}), which proves nothing; likely cause: weights that were not "
        "trained or not loaded, or a preprocessing that scales the pixels wrongly",
    )


OutputKind = Literal[
    "unit-interval", "probabilities", "percentages", "log-probabilities", "log-sigmoids", "logits"
]


def output_kind(outputs: npt.NDArray[np.floating]) -> OutputKind:
    """Return what rows of numbers (n, classes) look like.

    "probabilities", "percentages": none below 0, and each row of several sums to 1 or 100.
    "unit-interval": otherwise, all in [0, 1], as after a sigmoid.
    "log-probabilities": none above 0, and the exponentials of each row sum to 1.
    "log-sigmoids": otherwise, none above 0, and the largest of half the rows is at least log ½.
        The largest logit before a softmax is above 0: training hardly changes the sum of a row.
    """
    rows = outputs.astype(np.float64)
    several = rows.shape[1] > 1
    if not rows.any():  # logits of an untrained network
        return "logits"
    if rows.max() <= 0 and several and _sum_to_one(np.exp(rows)):
        return "log-probabilities"
    if rows.max() <= 0 and np.median(rows.max(axis=1)) >= np.log(0.5):
        return "log-sigmoids"
    if rows.min() < 0:
        return "logits"
    if several and _sum_to_one(rows):
        return "probabilities"
    if several and _sum_to_one(rows / 100):
        return "percentages"
    return "unit-interval" if rows.max() <= 1 else "logits"


def _sum_to_one(rows: npt.NDArray[np.float64]) -> bool:
    return bool((np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


def check_activation(logits: Logits, activation: str, *, requested: str | None) -> Finding | None:
    """Compare an activation with the network's outputs on the golden images.

    Args:
        logits: These outputs.
        activation: The activation to apply to them.
        requested: The activation named by --activation or by the last operator of a finished
            graph; None if neither names one.

    Returns:
        A finding if a sigmoid is requested and the outputs look as if one was already applied.

    Raises:
        ImportRefused: The outputs contradict the activation or do not determine it.
    """
    kind = output_kind(logits)
    unchanged = "serve the outputs unchanged with --activation none"
    if logits.shape[1] == 1 and activation == "softmax":
        raise ImportRefused(
            "network: has one output, whose softmax is 1 for every image; say what it is: "
            "--activation sigmoid (a logit; for yes and no, give two labels: it is that of the "
            "second), or --activation none (a score)"
        )
    if kind in ("probabilities", "percentages") and activation != "none":
        raise ImportRefused(
            f"network: its outputs on the golden images are {kind}, expected logits; leave "
            "its softmax out, because the service applies one (if it averages several, return the "
            f"logarithm), or {unchanged}"
        )
    if kind == "log-probabilities" and activation == "sigmoid":
        raise ImportRefused(
            "network: its outputs on the golden images are log-probabilities, whose softmax gives "
            f"the probabilities; leave --activation sigmoid out, or {unchanged}"
        )
    if kind == "log-sigmoids" and requested is None:
        raise ImportRefused(
            "network: none of its outputs on the golden images is above 0, as after a logsigmoid; "
            "remove the logsigmoid and add --activation sigmoid; if the outputs are logits or "
            f"negative distances, add --activation softmax; or {unchanged}"
        )
    in_unit_interval = (
        "network: its outputs all lie in [0, 1] and no row sums to 1, so it seems to end in a "
        f"sigmoid; remove it from the network and add --activation sigmoid, or {unchanged}"
    )
    if kind == "unit-interval" and requested is None:
        raise ImportRefused(in_unit_interval)
    if kind == "unit-interval" and requested != "none":
        return Finding("sigmoid-twice", in_unit_interval)
    return None


def implausible_labels(
    answers: Classes, targets: TrueClasses, labels: Sequence[str]
) -> Finding | None:
    """Find labels in another order than the network's, or answers no better than guessing."""
    rows = [row for row, target in enumerate(targets) if target is not None]
    if not rows:
        return None
    truth, answers = np.array([targets[row] for row in rows]), answers[rows]
    return _permuted_labels(answers, truth, labels) or _chance_accuracy(
        int((answers == truth).sum()), len(rows), len(labels)
    )


def _chance_accuracy(right: int, images: int, classes: int) -> Finding | None:
    # Two conditions, of which few images fulfil neither: guessing explains the right answers, and a
    # network half-way between guessing and perfect would hardly ever have so few.
    halfway = (1 + 1 / classes) / 2
    if classes < 2 or _at_least(right, images, 1 / classes) <= 0.01:
        return None
    if 1 - _at_least(right + 1, images, halfway) > 0.05:
        return None
    return Finding(
        "chance-accuracy",
        f"the reference is right on {right} of {images} labelled golden images; guessing one "
        f"of {classes} classes gives {images / classes:.2g}; likely cause: the order of the "
        "labels, the preprocessing, untrained weights, or wrong classes of the images",
    )


def _permuted_labels(answers: Classes, truth: Classes, labels: Sequence[str]) -> Finding | None:
    """Find a permutation of the classes that, found on half of the images, explains the others.

    With about one image per class no other half can confirm it. The permutation must then explain
    all images, and at most a quarter may be right without it.
    """
    right = answers == truth
    first_half = np.zeros(len(truth), dtype=bool)
    first_half[np.argsort(truth, kind="stable")[::2]] = True  # images of a class alternate
    mapping = _best_mapping(answers, truth)
    explained = np.zeros(len(truth), dtype=bool)
    for half in (first_half, ~first_half):
        other_mapping = _best_mapping(answers[~half], truth[~half])
        explained[half] = _mapped(answers[half], other_mapping) == truth[half]
    if not explains_more(explained, right):
        explained = _mapped(answers, mapping) == truth
        if not explained.all() or len(truth) < max(4 * right.sum(), 3):
            return None
    moved = [
        f"class {answer} is {labels[target]!r}, not {labels[answer]!r}"
        for answer, target in sorted(mapping.items())
        if answer != target
    ]
    return Finding(
        "permuted-labels",
        f"labels: the reference is right on {right.sum()} of {len(truth)} labelled golden images, "
        f"and would be on {explained.sum()} with the labels in another order "
        f"({', '.join(moved[:3])}{', …' * (len(moved) > 3)}); give the labels in the order of the "
        "training, such as dataset.classes of ImageFolder, which sorts its folders as text",
    )


def _mapped(answers: Classes, mapping: Mapping[int, int]) -> Classes:
    return np.array([mapping.get(int(answer), int(answer)) for answer in answers])


def _best_mapping(answers: Classes, truth: Classes) -> dict[int, int]:
    """Return the one-to-one map of answered classes to true classes that most images follow."""
    counts = Counter(zip(answers.tolist(), truth.tolist(), strict=True))
    mapping: dict[int, int] = {}
    # The most frequent pairs first; of equally frequent ones, a class that stays as it is.
    for (answer, target), _ in sorted(
        counts.items(), key=lambda item: (-item[1], item[0][0] != item[0][1], item[0])
    ):
        if answer not in mapping and target not in mapping.values():
            mapping[answer] = target
    return mapping


def channel_order(
    network: nn.Module, inputs: Batch, answers: Classes, targets: TrueClasses, outputs: Outputs
) -> Finding | None:
    """Find a network that classifies more images right with their channels reversed.

    The images run again only if at least a quarter is classified wrong: swapped channels cost a
    trained network more, so most imports skip the check.
    """
    rows = [row for row, target in enumerate(targets) if target is not None]
    truth = np.array([targets[row] for row in rows])
    right = answers[rows] == truth
    if inputs.shape[3] != 3 or 4 * (~right).sum() < max(len(rows), 1):
        return None
    reversed_logits = run_reference(network, inputs[rows][..., ::-1])
    right_reversed = answered_classes(reversed_logits, outputs) == truth
    if not explains_more(right_reversed, right):
        return None
    return Finding(
        "channel-order",
        f"preprocessing: the reference is right on {right.sum()} of {len(rows)} labelled "
        f"golden images as they are, and on {right_reversed.sum()} with red and blue exchanged; "
        "likely cause: the network was trained on BGR images (cv2.imread); write a "
        "preprocessing class that reverses the channels",
    )


def explains_more(alternative: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> bool:
    """Return whether an alternative is right significantly more often (McNemar's exact test)."""
    gained, lost = int((alternative & ~right).sum()), int((right & ~alternative).sum())
    return gained > lost and _at_least(gained, gained + lost, 0.5) <= RARE


def _at_least(hits: int, trials: int, probability: float) -> float:
    """Return the binomial probability of at least `hits` in `trials`."""
    return float(bdtrc(hits - 1, trials, probability))
