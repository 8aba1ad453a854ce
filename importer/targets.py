"""The true classes of golden images, from the text of a table or the name of a folder."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from importer.errors import ImportRefused
from importer.golden_images import GoldenImage, GoldenImages
from importer.plausibility import Classes, Finding, check_findings, explains_more
from importer.reference import comparable


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The labels, the true classes of the golden images, and how they were found.

    Attributes:
        order: How the order of the classes was found, in words.
        labels: Names of the classes, in the order of the logits.
        class_ids: Index of the true class of each golden image, or None.
        named: Whether the classes are given by label, not by number or the order of folders.
        notes: Sentences for the operator.
    """

    order: str
    labels: tuple[str, ...]
    class_ids: tuple[int | None, ...]
    named: bool = False
    notes: tuple[str, ...] = ()

    def right(self, answers: Classes) -> npt.NDArray[np.bool_]:
        """Return which images are answered with their class, (n,)."""
        return np.array(
            [answer == target for answer, target in zip(answers, self.class_ids, strict=True)]
        )


def decide_targets(
    golden: GoldenImages,
    labels: tuple[str, ...],
    answers: Classes,
    accepted: Sequence[str] = (),
    *,
    trained: Sequence[tuple[str, ...]] = (),
) -> Targets:
    """Decide which class each golden image has.

    If classes are named by numbers, the order of the training is uncertain: torchvision's
    ImageFolder sorts its folders as text, so that "10" comes before "2". Both orders are compared
    with the reference's answers, and the order that these confirm is used. With a single label
    there is nothing to compare, so the classes stay unknown.

    Args:
        labels: Names of the classes, in the order of the label file, one for each logit.
        answers: Class that the reference answers for each image, (n,).
        accepted: Accepted findings.
        trained: Labels that came with `--reference` or the weights; they prove the order of
            numbers.

    Raises:
        ImportRefused: An image has a class that does not exist, or several orders fit and the
            images do not show which is right.
    """
    distinct: dict[object, Targets] = {}
    for item in _possible_targets(golden, labels):  # the likeliest first
        distinct.setdefault((item.labels, item.class_ids), item)
    possible = [item for item in distinct.values() if item.labels in trained]
    possible = possible or list(distinct.values())
    best_first = sorted(possible, key=lambda item: -item.right(answers).sum())
    chosen = best_first[0]
    notes = [_source_of_classes(golden, chosen)]
    if len(possible) > 1:
        labelled = sum(target is not None for target in chosen.class_ids)
        accuracies = "; ".join(
            f"{item.order}: {item.right(answers).sum()} of {labelled} right" for item in possible
        )
        best, second = (item.right(answers) for item in best_first[:2])
        if explains_more(best, second):
            notes.append(f"the reference confirms the order of the classes: {accuracies}")
        else:
            finding = Finding(
                "class-order",
                "the classes are named by numbers, and the golden images do not show in "
                f"which order the network was trained ({accuracies}); give golden images of "
                "more classes, with a labels.csv of file,label or a folder per class, or a "
                "reference with labels (model_import.py notebook)",
            )
            check_findings(finding, accepted=accepted, note=notes.append)
            chosen = possible[0]
    if chosen.labels != labels:
        moved = next(n for n, label in enumerate(labels) if label != chosen.labels[n])
        notes.append(
            f"the labels are reordered: class {moved} is {chosen.labels[moved]!r}, in the "
            f"label file it is {labels[moved]!r}"
        )
    if len(labels) == 1:
        note = "the only label applies to all images, so no accuracy is compared"
        return replace(chosen, class_ids=(None,) * len(golden.images), notes=(note,))
    return replace(chosen, notes=tuple(notes))


def _possible_targets(golden: GoldenImages, labels: tuple[str, ...]) -> Iterator[Targets]:
    golden = _spelled_as_labels(golden, labels)
    if golden.indexed:
        ids = tuple(_class_id(image, labels, names_too=False) for image in golden.images)
        yield Targets(order="class_index", labels=labels, class_ids=ids)
        return
    if golden.folders and all(labels.count(folder) != 1 for folder in golden.folders):
        orders = _folder_orders(golden.folders, labels)
        for words, folders in orders:
            ids = tuple(folders.index(str(image.class_text)) for image in golden.images)
            yield Targets(order=words, labels=labels, class_ids=ids)
        if orders:
            return
        if not all(map(_is_number, golden.folders)):
            unknown = (None,) * len(golden.images)
            yield Targets(order="unknown folders", labels=labels, class_ids=unknown)
            return
    orders_of_labels = {"labels in the order of their file": labels}
    # Numbers that are not sorted are in the order of the training.
    if all(map(_is_number, labels)) and list(labels) == sorted(set(labels), key=int):
        as_text = tuple(sorted(labels))
        words = f"labels sorted as text ({', '.join(as_text[:4])}, …), as ImageFolder sorts"
        orders_of_labels[words] = as_text
    named = {image.class_text for image in golden.images} <= {None, *labels}
    for words, order in orders_of_labels.items():
        ids = tuple(_class_id(image, order, names_too=True) for image in golden.images)
        yield Targets(order=words, labels=order, class_ids=ids, named=named)


def _spelled_as_labels(golden: GoldenImages, labels: tuple[str, ...]) -> GoldenImages:
    """Spell the classes of images and folders as the labels do: "Red_Foxes" as "red fox"."""
    counts = Counter(map(_stem, labels))
    label_of = {_stem(label): label for label in labels if counts[_stem(label)] == 1}

    def spelled(text: str) -> str:
        return text if text in labels else label_of.get(_stem(text), text)

    images = tuple(
        replace(image, class_text=image.class_text and spelled(image.class_text))
        for image in golden.images
    )
    return replace(golden, images=images, folders=tuple(map(spelled, golden.folders)))


def _stem(name: str) -> str:
    """Return a name as it is compared, in the singular of most English nouns."""
    return re.sub(r"(?<=[xh])es$|s$", "", comparable(name))


def _folder_orders(
    folders: tuple[str, ...], labels: tuple[str, ...]
) -> list[tuple[str, list[str]]]:
    """Return the possible orders of training for folders that are not labels."""
    if not all(map(_is_number, folders)):
        words = "none is a label, so they are sorted, as by ImageFolder"
        return [(words, sorted(folders))] if len(folders) == len(labels) else []
    counts = [[str(start + n) for n in range(len(labels))] for start in (0, 1)]
    if len(folders) == len(labels):
        counts = [sorted(folders, key=int)]
    return [
        order
        for counted in counts
        if set(folders) <= set(counted)
        for order in (
            (f"folders in numeric order from {counted[0]}", counted),
            (f"folders from {counted[0]} sorted as text, as ImageFolder sorts", sorted(counted)),
        )
    ]


def _class_id(image: GoldenImage, labels: Sequence[str], *, names_too: bool) -> int | None:
    """Return the class of an image: its text is a unique label, or else an index from 0."""
    text = image.class_text
    if text is None:
        return None
    if names_too and labels.count(text) == 1:
        return labels.index(text)
    # If labels are numbers themselves, "1" is a label, and "0" must not be an index.
    indexes = not names_too or not all(map(_is_number, labels))
    if indexes and _is_number(text) and int(text) < len(labels):
        return int(text)
    if (count := labels.count(text)) > 1:
        raise ImportRefused(
            f"{image.class_from}: {text!r} is the label of {count} classes; give the index"
        )
    expected = ["a label"] * names_too + [f"an index from 0 to {len(labels) - 1}"] * indexes
    raise ImportRefused(
        f"{image.class_from}: {text!r} is not {' or '.join(expected)}; labels are "
        f"{', '.join(map(repr, labels[:3]))}{', …' * (len(labels) > 3)}"
    )


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", text) is not None


def _source_of_classes(golden: GoldenImages, targets: Targets) -> str:
    for image, target in zip(golden.images, targets.class_ids, strict=True):
        if target is not None:
            source = "the sub-folders" if golden.folders else "the table"
            return (
                f"classes of the golden images come from {source} ({targets.order}): "
                f"{image.name} is {targets.labels[target]!r}, class {target}"
            )
    return (
        "no table, and no folder named like a label, gives the classes of the golden images, so no "
        "accuracy is compared"
    )
