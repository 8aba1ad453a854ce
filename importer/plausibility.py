"""Whether a model and its evidence make sense together: findings before anything is written.

A check returns what it found, or None. `check_findings` refuses what nobody accepted. The checks
name their arguments alike: `network` is `PixelsToLogits` in evaluation mode, `inputs` the golden
inputs (n, H, W, C), `logits` what the reference answers to them, float32 (n, classes), `answers`
the class it answers each image with, (n,), `targets` the true class of each image, or None, and
`labels` the names of the classes in the order of the logits.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

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
from importer.network import run_network
from importer.odd_images import OddImages
from importer.options import FindingName
from importer.pixels_to_logits import run_reference

Classes = npt.NDArray[np.int64]
Targets = Sequence[int | None]
RARE = 0.02
"""Probability below which chance does not explain what was seen. Six images that all speak for
one of two explanations reach it (1/64), five do not (1/32)."""
REPEAT_TOLERANCE = 1e-5
"""Times `logit_scale`. One image, one thread: torch repeats the same bits; a runtime that sums
in another order stays below this."""
BATCH_TOLERANCE = 1e-3
"""Times `logit_scale`, as in the fp32 gate. Trained networks differ by less than 1e-5."""
SAME_LOGITS = 1e-3
"""Range of a logit over the images ÷ standard deviation of the logits of one image. Trained
networks have 8 and more, networks with random weights rarely less than 1e-3."""
PAIRED_IMAGES = 4
"""Golden images, and as many odd ones, that also run together in one batch. One pair would do to
see batch normalisation in training mode; four also see what depends on the position."""
SUM_TOLERANCE = 1e-3
"""Probabilities of 1000 classes rounded to half precision still sum to 1 within this."""


class Finding(NamedTuple):
    """Something that makes the import implausible.

    Attributes:
        name: What the person importing accepts with `--accept NAME`.
        message: What was found, the likely cause and what to do, in one line.
    """

    name: FindingName
    message: str


def check_findings(
    *findings: Finding | None, accepted: Sequence[str], note: Callable[[str], None]
) -> None:
    """Raise for findings that are not accepted; note each of the others.

    Raises:
        ImportRefused: All findings that are not accepted, each with the option that accepts it.
    """
    found = [finding for finding in findings if finding is not None]
    refused = [finding for finding in found if finding.name not in accepted]
    if refused:
        raise ImportRefused(
            "; ".join(
                f"{message}; if that is as it should be: --accept {name}"
                for name, message in refused
            )
        )
    for name, message in found:
        note(f"accepted ({name}): {message}")


def mean_std_scale(mean: Sequence[float] | None, std: Sequence[float] | None) -> Finding | None:
    """Find means or standard deviations of pixels in [0, 255] where [0, 1] is expected.

    Args:
        mean: Per channel; None where the preprocessing normalises by itself.
        std: Per channel.
    """
    if mean is None or std is None:
        return None
    if 0 <= min(mean) <= max(mean) <= 1 and 0 < min(std) <= max(std) <= 1:
        return None
    return Finding(
        "mean-std-scale",
        f"preprocessing: mean {list(mean)}, std {list(std)} are not of pixels in [0, 1], which "
        "they are applied to; such a mean lies in [0, 1], such a std is above 0 and at most 1: "
        "divide by 255 what was computed from pixels in [0, 255]",
    )


def input_range(inputs: Batch) -> Finding | None:
    """Find float32 inputs whose values hardly differ: pixels that were scaled twice.

    Pixels in [0, 1], [-1, 1] or divided by a std span 1 and more over some images; scaled by 255
    once too often they span at most 0.02.
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


AUGMENTATION = (
    "likely cause: an augmentation of the training (RandomResizedCrop, RandomHorizontalFlip, "
    "ColorJitter); use the transforms of the evaluation"
)
DRAWS = 300
"""Runs of one image that show an augmentation of probability 0.02 with 99.8 %. Some libraries draw
random numbers for every step, also for those that are always taken (albumentations)."""


def check_repeatable(names: Sequence[str], inputs: Batch, again: Callable[[int], Batch]) -> str:
    """Compare the inputs of the golden images with the same, made again.

    Nothing to accept: a start compares the inputs with those of the import. Where random numbers
    are drawn, an augmentation may be rare: the first image is run `DRAWS` times more.

    Args:
        again: Makes the input of an image anew, by its place.

    Returns:
        A note where random numbers are drawn and change nothing; else nothing.

    Raises:
        ImportRefused: They differ; with the first image and the likely cause.
    """

    def differs(row: int) -> bool:
        return not np.array_equal(inputs[row], again(row), equal_nan=True)

    before = _random_state()
    if differ := [name for row, name in enumerate(names) if differs(row)]:
        raise ImportRefused(
            f"preprocessing: to_input gives another input when it runs again on {len(differ)} of "
            f"{len(names)} golden images, {differ[0]} the first; {AUGMENTATION}"
        )
    if _random_state() == before:
        return ""
    if any(differs(0) for _ in range(DRAWS)):
        raise ImportRefused(
            f"preprocessing: to_input draws random numbers, and gives another input now and then; "
            f"{AUGMENTATION}"
        )
    return f"preprocessing: draws random numbers that changed none of {DRAWS} runs"


def _random_state() -> tuple[object, ...]:
    """Return what the random numbers of Python, numpy and torch that come next depend on."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpys = (kind, np.asarray(keys).tobytes(), *rest)
    return random.getstate(), numpys, torch.get_rng_state().numpy().tobytes()


def unstable_network(
    network: nn.Module,
    inputs: Batch,
    logits: Logits,
    odd: OddImages | None = None,
    *,
    takes_batches: bool,
) -> Finding | None:
    """Find a network that answers the same images differently, again or together in a batch.

    Odd images stand beside the golden ones, which may be alike in what a network takes of a batch.
    """
    inputs, logits = inputs[:PAIRED_IMAGES], logits[:PAIRED_IMAGES]
    if odd is not None:
        inputs = np.concatenate([inputs, odd.inputs[odd.answered][:PAIRED_IMAGES]])
        logits = np.concatenate([logits, odd.logits[odd.answered][:PAIRED_IMAGES]])
    if not takes_batches:
        again = run_reference(network, inputs)
        return _unstable(logits, again) if _relative(logits, again) > REPEAT_TOLERANCE else None
    batch = torch.from_numpy(np.array(inputs))
    batched = run_network(network, batch, None).numpy()
    if _relative(logits, batched) <= BATCH_TOLERANCE:
        return None
    again = run_network(network, batch, None).numpy()
    if _relative(batched, again) > REPEAT_TOLERANCE:
        return _unstable(batched, again)
    return Finding(
        "batch-dependent",
        "network: its answer to an image depends on the other images of the batch: logits "
        f"differ by up to {np.abs(logits - batched).max():.3g}; likely cause: batch "
        "normalisation in training mode (train() called in forward, or "
        "track_running_stats=False), or a sum, mean, maximum or softmax over the batch dimension",
    )


def _unstable(logits: Logits, again: Logits) -> Finding:
    return Finding(
        "unstable-reference",
        "network: it answers differently each time: logits of one image differ by up to "
        f"{np.abs(logits - again).max():.3g} between two runs; likely cause: dropout, "
        "stochastic depth or noise that is active in evaluation mode, such as "
        "functional.dropout(x) without training=self.training",
    )


def _relative(first: Logits, second: Logits) -> float:
    """Return the largest difference, over `logit_scale`."""
    return float((np.abs(first - second) / logit_scale(first)).max())


def constant_logits(logits: Logits, inputs: Batch, outputs: Outputs) -> Finding | None:
    """Find a network that gives every image (nearly) the same logits.

    Copies of one image prove nothing. Of logits a softmax or a sigmoid makes nearly the same
    probabilities where they differ by little, however small they are.
    """
    if all(np.array_equal(inputs[0], other) for other in inputs[1:]):
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
        f"at most {differences:.2g}), so nothing about them is proven; likely cause: "
        "weights that were not trained or not loaded, or a preprocessing that scales the "
        "pixels wrongly",
    )


OutputKind = Literal[
    "unit-interval", "probabilities", "percentages", "log-probabilities", "log-sigmoids", "logits"
]


def output_kind(outputs: npt.NDArray[np.floating]) -> OutputKind:
    """Say what rows of numbers (n, classes) look like.

    "probabilities", "percentages": none below 0, several to a row, and each row sums to 1 or 100.
    "unit-interval": all in [0, 1] without that, as a sigmoid makes them.
    "log-probabilities": none above 0, and the exponentials of each row sum to 1.
    "log-sigmoids": none above 0 without that, and the best of half the rows log ½ or more. Of
        logits trained with a softmax the best is above 0: their sum hardly moves in training.
    """
    rows = outputs.astype(np.float64)
    several = rows.shape[1] > 1
    # Logits of dead or untrained networks are all zero: neither softmax nor sigmoid gives that.
    if not rows.any():
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


def check_activation(logits: Logits, activation: str, *, asked: str | None) -> Finding | None:
    """Hold an activation against the outputs of the network on the golden images.

    Args:
        logits: These outputs, if they are logits.
        activation: What would be applied to them.
        asked: The activation that --activation, or the last operator of a finished graph,
            names; None: neither does.

    Returns:
        Where a sigmoid was asked for, and the outputs look as if one had been applied already.

    Raises:
        ImportRefused: The outputs contradict the activation or leave it open; with the options to
            choose from.
    """
    kind = output_kind(logits)
    as_they_are = "serve the outputs as they are with --activation none"
    if logits.shape[1] == 1 and activation == "softmax":
        raise ImportRefused(
            "network: has one output, whose softmax is 1 for every image; say what it is: "
            "--activation sigmoid (a logit; for yes and no, give two labels: it is that of the "
            "second), or --activation none (a score)"
        )
    if kind in ("probabilities", "percentages") and activation != "none":
        raise ImportRefused(
            f"network: its outputs on the golden images are {kind}, expected logits; leave "
            f"its softmax out, else the service would apply another one, or {as_they_are}"
        )
    if kind == "log-probabilities" and activation == "sigmoid":
        raise ImportRefused(
            "network: its outputs on the golden images are log-probabilities, whose softmax gives "
            f"the probabilities; leave --activation sigmoid out, or {as_they_are}"
        )
    if kind == "log-sigmoids" and asked is None:
        raise ImportRefused(
            "network: none of its outputs on the golden images is above 0, as after a logsigmoid; "
            "leave that out and add --activation sigmoid; if they are logits, or negative "
            f"distances, add --activation softmax; or {as_they_are}"
        )
    in_unit_interval = (
        "network: its outputs all lie in [0, 1] and no row sums to 1, so it seems to end in a "
        "sigmoid; leave that out of the network and add --activation sigmoid, or "
        f"{as_they_are}"
    )
    if kind == "unit-interval" and asked is None:
        raise ImportRefused(in_unit_interval)
    if kind == "unit-interval" and asked != "none":
        return Finding("sigmoid-twice", in_unit_interval)
    return None


def implausible_labels(answers: Classes, targets: Targets, labels: Sequence[str]) -> Finding | None:
    """Find labels in another order than the network's, or answers no better than guessing."""
    rows = [row for row, target in enumerate(targets) if target is not None]
    if not rows:
        return None
    truth = np.array([targets[row] for row in rows])
    answers = answers[rows]
    right = int((answers == truth).sum())
    return _permutation(answers, truth, labels) or _chance(right, len(rows), len(labels))


def _chance(right: int, images: int, classes: int) -> Finding | None:
    # Two conditions: guessing explains the hits, and a network half-way between guessing and
    # perfect would hardly ever have so few. With a few images only, neither can be told.
    halfway = (1 + 1 / classes) / 2
    if classes < 2 or at_least(right, images, 1 / classes) <= 0.01:
        return None
    if 1 - at_least(right + 1, images, halfway) > 0.05:
        return None
    return Finding(
        "chance-accuracy",
        f"the reference is right on {right} of {images} labelled golden images; guessing one "
        f"of {classes} classes gives {images / classes:.2g}; likely cause: the order of the "
        "labels, the preprocessing, weights that were not trained, or wrong classes of the "
        "images",
    )


def _explained(answers: Classes, truth: Classes) -> npt.NDArray[np.bool_] | None:
    """Look for a permutation: found on one half of the images, it must explain the other.

    With about one image a class there is no other half that could confirm it. Then it must explain
    all images, of which a quarter at most is right. An untrained network can look the same;
    both are refused.

    Returns:
        Which images it explains, (n,); None where chance explains as many.
    """
    right = answers == truth
    seen: Counter[int] = Counter()
    first_half = np.zeros(len(truth), dtype=bool)
    for row, target in enumerate(truth):  # images of a class go to the halves in turn
        first_half[row] = seen[int(target)] % 2 == 0
        seen[int(target)] += 1
    explained = np.zeros(len(truth), dtype=bool)
    for half in (first_half, ~first_half):
        mapping = _best_mapping(answers[~half], truth[~half])
        explained[half] = _mapped(answers[half], mapping) == truth[half]
    if _explains(explained, right):
        return explained
    explained = _mapped(answers, _best_mapping(answers, truth)) == truth
    return explained if explained.all() and len(truth) >= max(4 * right.sum(), 3) else None


def _mapped(answers: Classes, mapping: Mapping[int, int]) -> Classes:
    return np.array([mapping.get(int(answer), int(answer)) for answer in answers])


def _permutation(answers: Classes, truth: Classes, labels: Sequence[str]) -> Finding | None:
    explained = _explained(answers, truth)
    if explained is None:
        return None
    moved = [
        f"class {answer} is {labels[target]!r}, not {labels[answer]!r}"
        for answer, target in sorted(_best_mapping(answers, truth).items())
        if answer != target
    ]
    return Finding(
        "permuted-labels",
        f"labels: the reference is right on {(answers == truth).sum()} of {len(truth)} labelled "
        f"golden images, and would be on {explained.sum()} with the labels in another order "
        f"({', '.join(moved[:3])}{', …' * (len(moved) > 3)}); give the labels in the order of the "
        "training, such as dataset.classes of ImageFolder, which sorts its folders as text",
    )


def _best_mapping(answers: Classes, truth: Classes) -> dict[int, int]:
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


def channel_order(
    network: nn.Module, inputs: Batch, answers: Classes, targets: Targets, outputs: Outputs
) -> Finding | None:
    """Find a network that classifies images better with their channels reversed.

    The images run again only where a quarter and more are classified wrong: swapped channels cost
    a trained network more than that, and most imports do not pay for the check.
    """
    rows = [row for row, target in enumerate(targets) if target is not None]
    truth = np.array([targets[row] for row in rows])
    given = answers[rows] == truth
    if inputs.shape[3] != 3 or 4 * (~given).sum() < max(len(rows), 1):
        return None
    swapped = run_reference(network, inputs[rows][..., ::-1])
    other = answered_classes(swapped, outputs) == truth
    if not _explains(other, given):
        return None
    return Finding(
        "channel-order",
        f"preprocessing: the reference is right on {given.sum()} of {len(rows)} labelled "
        f"golden images as they are, and on {other.sum()} with red and blue exchanged; "
        "likely cause: the network was trained on BGR images (cv2.imread); write a "
        "preprocessing class that reverses the channels",
    )


def _explains(other: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> bool:
    """Say whether one explanation is right so much oftener than the other that chance is no reason.

    The images on which the two disagree would go either way if both were as good (McNemar's
    exact test).
    """
    gained, lost = int((other & ~given).sum()), int((given & ~other).sum())
    return gained > lost and at_least(gained, gained + lost, 0.5) <= RARE


def at_least(hits: int, trials: int, probability: float) -> float:
    """Return the probability of `hits` or more in independent trials (binomial)."""
    return float(bdtrc(hits - 1, trials, probability))


def what_the_proof_rests_on(
    right: int,
    labelled: int,
    *,
    meaning: str,
    reproduced: int | None,
    ordered: bool,
    accepted: Sequence[str],
) -> tuple[str, ...]:
    """Say in words what is proven of an import, and what is not.

    Args:
        right: Labelled golden images that the reference answers right.
        labelled: All labelled golden images.
        meaning: What an answer holds, in words.
        reproduced: Golden images whose numbers of the notebook are reproduced; None: not given.
        ordered: Whether the labels stand in the order of those that the training left.
        accepted: Findings that were accepted.
    """
    unproven = ["the labels are in the right order"] * (not ordered)
    unproven += ["the preprocessing is the one of the training"] * (reproduced is None)
    is_open = f"that {' and '.join(unproven)} is unproven" if unproven else "accuracy is not known"
    sentences = [
        f"reference: {right} of {labelled} labelled images right ({right / labelled:.1%})"
        if labelled
        else f"no golden image is labelled: {is_open}",
        f"no --reference: that the notebook's numbers are these ({meaning}) is unproven; "
        "model_import.py notebook shows how to save them"
        if reproduced is None
        else f"the notebook's numbers are reproduced on {reproduced} golden images",
    ]
    if accepted:
        sentences.append(f"accepted without proof: {', '.join(sorted(accepted))}")
    return tuple(sentences)
