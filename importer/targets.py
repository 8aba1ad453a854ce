"""The true classes of golden images: what the text of a table or the name of a folder means."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from importer.errors import ImportRefused
from importer.golden_images import GoldenImage, GoldenImages
from importer.plausibility import Classes, Finding, at_least, check_findings
from importer.reference import comparable

CHANCE = 0.01
"""A reading of the folders is taken if chance gives its hits less often than this."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One meaning of the classes of the golden images.

    Attributes:
        words: How the order comes about.
        labels: Names of the classes, in the order of the logits.
        class_ids: Index of the true class of each golden image, or None.
    """

    words: str
    labels: tuple[str, ...]
    class_ids: tuple[int | None, ...]

    def right(self, answers: Classes) -> npt.NDArray[np.bool_]:
        """Return which images are answered, (n,), as this reading says."""
        return np.array(
            [answer == target for answer, target in zip(answers, self.class_ids, strict=True)]
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The labels and the true classes of the golden images, and what these rest on.

    Attributes:
        class_ids: Index of the true class of each image, or None.
        notes: Sentences for the operator.
    """

    labels: tuple[str, ...]
    class_ids: tuple[int | None, ...]
    notes: tuple[str, ...]


def decide_targets(
    golden: GoldenImages,
    labels: tuple[str, ...],
    answers: Classes,
    accepted: Sequence[str] = (),
    *,
    notebook_labels: tuple[str, ...] | None = None,
) -> Targets:
    """Decide which class each golden image has.

    Where classes are called by numbers, the order of training is not certain: ImageFolder of
    torchvision sorts its folders as text, so that "10" comes before "2". Both orders are
    compared with what the reference answers, and the one that it confirms is taken. With one
    label, all images have it and there is nothing to compare: their classes stay unknown.

    Args:
        labels: Names of the classes, in the order that the label file gives, one for each logit.
        answers: Class that the reference answers each image with, (n,).
        accepted: Findings that the person importing knows and accepts.
        notebook_labels: Labels that came with `--reference`: they prove the order of numbers.

    Raises:
        ImportRefused: An image has a class that does not exist; or several orders fit and the
            images do not tell which is right.
    """
    found: dict[object, Reading] = {}
    for reading in _readings(golden, labels):  # the one that the files suggest comes first
        found.setdefault((reading.labels, reading.class_ids), reading)
    readings = [one for one in found.values() if one.labels == notebook_labels]
    readings = readings or list(found.values())
    best_first = sorted(readings, key=lambda reading: -reading.right(answers).sum())
    chosen = best_first[0]
    notes = [_what_classes_rest_on(golden, chosen)]
    if len(readings) > 1:
        labelled = sum(target is not None for target in chosen.class_ids)
        accuracies = "; ".join(
            f"{reading.words}: {reading.right(answers).sum()} of {labelled} right"
            for reading in readings
        )
        if _decides(answers, *best_first[:2]):
            notes.append(f"the order of the classes is decided by the reference: {accuracies}")
        else:
            finding = Finding(
                "class-order",
                "the classes are called by numbers, and the golden images do not tell in "
                f"which order the network was trained ({accuracies}); give golden images of "
                "more classes, with a labels.csv of file,label or a folder a class, or a "
                "reference that brings labels (model_import.py notebook)",
            )
            check_findings(finding, accepted=accepted, note=notes.append)
            chosen = readings[0]
    if chosen.labels != labels:
        moved = next(n for n, label in enumerate(labels) if label != chosen.labels[n])
        notes.append(
            f"the labels are put in this order: class {moved} is {chosen.labels[moved]!r}, in the "
            f"label file it is {labels[moved]!r}"
        )
    class_ids = chosen.class_ids
    if len(labels) == 1:
        class_ids = (None,) * len(class_ids)
        notes = ["one label, which all images have: no accuracy is compared"]
    return Targets(labels=chosen.labels, class_ids=class_ids, notes=tuple(notes))


def _by_label(golden: GoldenImages, labels: tuple[str, ...]) -> GoldenImages:
    """Call folders as the labels that they mean: "Red_Foxes" as "red fox"."""
    meant: dict[str, list[str]] = {}
    for label in labels:
        meant.setdefault(_plain(label), []).append(label)
    names = {}
    for folder in golden.folders:
        found = meant.get(_plain(folder), [])
        if folder in labels or len(found) != 1:
            return golden
        names[folder] = found[0]
    images = [
        replace(image, class_text=names.get(str(image.class_text), image.class_text))
        for image in golden.images
    ]
    return replace(golden, images=tuple(images), folders=tuple(names.values()))


def _plain(name: str) -> str:
    return comparable(name).rstrip("s")


def _readings(golden: GoldenImages, labels: tuple[str, ...]) -> Iterator[Reading]:
    golden = _by_label(golden, labels)
    texts = [image.class_text for image in golden.images]
    if golden.indexed:
        ids = [_index(image, labels, names_too=False) for image in golden.images]
        yield Reading(words="class_index", labels=labels, class_ids=tuple(ids))
        return
    if golden.folders and all(labels.count(folder) != 1 for folder in golden.folders):
        orders = _folder_orders(golden.folders, labels)
        for words, folders in orders:
            ids = [folders.index(str(text)) for text in texts]
            yield Reading(words=words, labels=labels, class_ids=tuple(ids))
        if orders:
            return
        if not all(map(_is_number, golden.folders)):
            yield Reading(words="unknown folders", labels=labels, class_ids=(None,) * len(texts))
            return
    ids = [_index(image, labels, names_too=True) for image in golden.images]
    yield Reading(words="labels in the order of their file", labels=labels, class_ids=tuple(ids))
    as_text = tuple(sorted(labels))
    # In an order of their own, somebody has decided it.
    counted = all(map(_is_number, labels)) and list(labels) == sorted(set(labels), key=int)
    if counted and as_text != labels:
        by_text = [None if i is None else as_text.index(labels[i]) for i in ids]
        yield Reading(
            words=f"labels sorted as text ({', '.join(as_text[:4])}, …), as ImageFolder sorts",
            labels=as_text,
            class_ids=tuple(by_text),
        )


def _folder_orders(
    folders: tuple[str, ...], labels: tuple[str, ...]
) -> list[tuple[str, list[str]]]:
    """Return the orders in which folders that name no label may have been trained."""
    if not all(map(_is_number, folders)):
        words = "they name no label, so they are taken in sorted order, as by ImageFolder"
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


def _index(image: GoldenImage, labels: Sequence[str], *, names_too: bool) -> int | None:
    """Return the class that the text means: a label that is unique, else an index from 0."""
    text = image.class_text
    if text is None:
        return None
    if names_too and labels.count(text) == 1:
        return labels.index(text)
    # Where labels are numbers themselves, "1" is the label, and "0" must not be an index.
    indexes = not names_too or not all(map(_is_number, labels))
    if indexes and _is_number(text) and int(text) < len(labels):
        return int(text)
    if (count := labels.count(text)) > 1:
        raise ImportRefused(
            f"{image.class_from}: {text!r} is the label of {count} classes; give the index"
        )
    expected = [*(["a label"] if names_too else []), *(["an index"] if indexes else [])]
    raise ImportRefused(
        f"{image.class_from}: {text!r} is not {' or '.join(expected)}"
        f"{f' from 0 to {len(labels) - 1}' if indexes else ''}; labels are "
        f"{', '.join(map(repr, labels[:3]))}{', …' * (len(labels) > 3)}"
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _decides(answers: Classes, best: Reading, second: Reading) -> bool:
    """Say whether the images on which two readings disagree confirm the better one."""
    disputed = np.array([a != b for a, b in zip(best.class_ids, second.class_ids, strict=True)])
    hits, others = (int(one.right(answers)[disputed].sum()) for one in (best, second))
    by_chance = at_least(hits, int(disputed.sum()), 1 / len(best.labels))
    return hits > others and by_chance <= CHANCE


def _what_classes_rest_on(golden: GoldenImages, reading: Reading) -> str:
    for image, target in zip(golden.images, reading.class_ids, strict=True):
        if target is not None:
            source = "the sub-folders" if golden.folders else "the table"
            return (
                f"classes of the golden images come from {source} ({reading.words}): "
                f"{image.name} is {reading.labels[target]!r}, class {target}"
            )
    if golden.folders:
        return (
            f"sub-folders name no class ({golden.folders[0]!r}), so the true classes of the "
            "golden images are not known and no accuracy is compared"
        )
    return "classes of the golden images are not known, so no accuracy is compared"
