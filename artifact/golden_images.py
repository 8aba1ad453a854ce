"""The original image files an artifact is verified with, and the class of each where known."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifact.errors import ArtifactError
from artifact.golden_images_labels import (
    LabelsFound,
    labels_from_csv,
    labels_from_folders,
    labels_from_prefixes,
)

CSV_NAME = "labels.csv"
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")


@dataclass(frozen=True, kw_only=True)
class GoldenImage:
    """One original image file.

    Attributes:
        name: Path below the folder, forward slashes: "7-03.png" or "cat/001.jpg".
        data: The bytes of the file, unchanged.
        label: Index of the true class, or None.
    """

    name: str
    data: bytes
    label: int | None


@dataclass(frozen=True, kw_only=True)
class GoldenImages:
    """The chosen images.

    Attributes:
        images: In the order of their names.
        labels_from: "csv", "folders", "prefixes" or "none".
        notes: Sentences for the operator: what was left out, and why.
    """

    images: tuple[GoldenImage, ...]
    labels_from: str
    notes: tuple[str, ...]


def read_golden_images(
    folder: Path,
    labels: Sequence[str],
    wanted: int,
    csv: Path | None = None,
    *,
    among: Collection[str] | None = None,
) -> GoldenImages:
    """Choose golden images from a folder and its sub-folders.

    The class comes from `csv`, else from `labels.csv` in the folder, else from the names of the
    sub-folders, else from the start of the file names ("7-03.png"), else it is unknown.
    Where there are more images than wanted, classes are represented as evenly as possible,
    and within a class the sha256 of the name decides: the same files give the same choice on
    every machine. Files that begin like no image, and hidden ones, are left out.

    Args:
        folder: Where the images lie.
        labels: Names of the classes, in the order of the logits.
        wanted: How many to keep at most; at least 1.
        csv: Table with a column for the file and one for the class.
        among: Choose only images whose name, or its last part, is one of these.

    Raises:
        ArtifactError: No image, or a class that does not exist.
    """
    if wanted < 1:
        raise ArtifactError(f"golden images: {wanted} wanted, expected at least 1")
    names, notes = _image_names(folder)
    if among is not None:
        names = [name for name in names if {name, name.rpartition("/")[2]} & set(among)]
        if not names:
            raise ArtifactError(f"{folder}: the reference names none of its images")
    if csv is None and (folder / CSV_NAME).is_file():
        csv = folder / CSV_NAME
    found = _labels(names, labels, csv)
    chosen = balanced_choice(names, found.by_name, wanted)
    if len(chosen) < len(names):
        notes.append(f"{len(chosen)} of {len(names)} images chosen, evenly over the classes")
    return GoldenImages(
        images=tuple(
            GoldenImage(name=name, data=_bytes(folder / name), label=found.by_name.get(name))
            for name in chosen
        ),
        labels_from=found.origin,
        notes=(*notes, *found.notes),
    )


def balanced_choice(
    names: Iterable[str], label_by_name: Mapping[str, int], wanted: int
) -> list[str]:
    """`wanted` of `names`, as many of each class as of any other where possible, sorted.

    Images without a class count as one more class. A name's place is its rank in its class
    and then its sha256, so adding a class does not disturb the choice within the others.
    """
    groups: dict[int | None, list[str]] = defaultdict(list)
    for name in sorted(names, key=_name_digest):
        groups[label_by_name.get(name)].append(name)
    ranked = [
        (rank, _name_digest(name), name)
        for group in groups.values()
        for rank, name in enumerate(group)
    ]
    return sorted(name for _, _, name in sorted(ranked)[:wanted])


def _name_digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def _image_names(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images below `folder`, sorted, and a note on what else lies there."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; expected a folder of images")
    names: list[str] = []
    others: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            (names if _begins_like_image(path) else others).append(name)
    if not names:
        raise ArtifactError(
            f"{folder}: holds no image ({len(others)} other files); expected JPEG, PNG, WebP, GIF "
            "or BMP"
        )
    others = [name for name in others if name != CSV_NAME]
    if not others:
        return names, []
    shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
    return names, [f"{len(others)} files that are no image left out: {shown}"]


def _begins_like_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a readable image") from error
    return start.startswith(IMAGE_STARTS) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _labels(names: Sequence[str], labels: Sequence[str], csv: Path | None) -> LabelsFound:
    if csv is not None:
        return labels_from_csv(csv, names, labels)
    if all("/" in name for name in names):
        return labels_from_folders(names, labels)
    return labels_from_prefixes(names, labels)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a readable image") from error
