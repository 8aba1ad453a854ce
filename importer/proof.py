"""Sentences on what an import proves, and what it does not."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from image_classifier.inference.certificate import count_right
from importer.diagnosis import Comparison
from importer.golden_images import GoldenImage, unseen_kinds
from importer.plausibility import Classes
from importer.targets import Targets
from preprocessing import Preprocessing


def describe_labels(targets: Targets, answers: Classes, *, order_proven: bool) -> list[str]:
    """Say how many golden images are answered right, and what that says of the labels.

    Args:
        answers: Class that the reference answers for each image, (n,).
        order_proven: Whether the labels are in the order of those that the training saved.
    """
    right, labelled = count_right(answers, targets.class_ids)
    order_proven |= len(targets.labels) == 1
    unproven = "that the labels are in the right order is unproven"
    if not labelled:
        is_open = "accuracy is not known" if order_proven else unproven
        return [f"no golden image is labelled: {is_open}"]
    sentences = [f"reference: {right} of {labelled} labelled images right ({right / labelled:.1%})"]
    if len(targets.labels) > 1 and len(answers) > 1 and len(set(answers.tolist())) == 1:
        sentences.append("all golden images get the same answer, which shows little of the others")
    confirmed = _confirmed(targets, answers)
    classes = len(targets.labels)
    if not (order_proven or targets.named):
        sentences.append(
            "the golden images give classes by number or order of folders, not by label: "
            f"{unproven}"
        )
    elif not order_proven and confirmed < classes - 1:
        sentences.append(
            f"golden images confirm {confirmed} of {classes} labels: that the others are in the "
            "right order is unproven"
        )
    return sentences


def _confirmed(targets: Targets, answers: Classes) -> int:
    """Return for how many classes the answers prove the label.

    Most answers to its images must be the class, and most answers of the class be to its images:
    single right answers may be mistakes of a network whose labels are exchanged.
    """
    pairs = zip(targets.class_ids, answers.tolist(), strict=True)
    counts = Counter((target, answer) for target, answer in pairs if target is not None)
    rivals: dict[int, int] = defaultdict(int)  # class → the largest count beside its right answers
    for (target, answer), count in counts.items():
        if target != answer:
            rivals[target] = max(rivals[target], count)
            rivals[answer] = max(rivals[answer], count)
    return sum(counts[class_id, class_id] > rivals[class_id] for class_id in set(answers.tolist()))


def describe_numbers(
    comparison: Comparison | None,
    images: Sequence[GoldenImage],
    *,
    meaning: str,
    chosen: bool,
    preprocessing: Preprocessing | None = None,
    unproven: Sequence[str] = (),
) -> list[str]:
    """Say whether the notebook's numbers are reproduced, and what that does not show.

    Args:
        comparison: None without `--reference`.
        meaning: What an answer holds, in words.
        chosen: Whether the operator or the network says what its outputs mean.
        preprocessing: Makes the inputs of the images.
        unproven: Keys of the preprocessing whose values do not matter for the images.
    """
    if comparison is None:
        return [
            f"no --reference: that the notebook's numbers are these ({meaning}) is unproven; "
            "model_import.py notebook shows how to save them"
        ]
    count = f"{len(images)} golden image{'s' * (len(images) != 1)}"
    difference = comparison.differences.max()
    sentences = [
        f"the notebook's {comparison.kind} are reproduced within {difference:.2g} on {count}"
    ]
    if comparison.kind == "logits" and not chosen:
        sentences.append(
            f"the reference holds logits; what the notebook makes of them ({meaning}) is unproven "
            "without --activation"
        )
    if comparison.saturated:
        sentences.append(
            "most of the notebook's probabilities are 0 or 1, which shows little of images that "
            "are less clear: save logits"
        )
    if unseen := unseen_kinds(images, preprocessing):
        sentences.append(
            f"no golden image is {' or '.join(unseen)}: that the notebook treats those in the same "
            "way is unproven"
        )
    if unproven:
        sentences.append(
            f"the golden images do not show {', '.join(unproven)}: include images for which these "
            "matter, or that the notebook does the same is unproven"
        )
    return sentences
