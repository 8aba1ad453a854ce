"""Golden images: the files, their true classes, the numbers a notebook computed for them."""

import csv as csv_module
import hashlib
import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from image_classifier.artifact.format import ArtifactError

FILE_COLUMNS = ("file", "filename", "file_name", "image", "path", "image_path")
INDEX_COLUMNS = ("class_index", "class_id", "label_id", "index", "target")
LABEL_COLUMNS = ("label", "class", "class_name", "category")
PREFIX = re.compile(r"^(\d+|[^\W\d_]+)[-_]")
"""A number or a word before the first "-" or "_"."""


@dataclass(frozen=True, kw_only=True)
class LabelsFound:
    """Classes of images.

    Attributes:
        by_name: Image name → class index; a name without a class is absent.
        origin: "csv", "folders", "prefixes" or "none".
        notes: Sentences for the operator.
    """

    by_name: Mapping[str, int]
    origin: str
    notes: tuple[str, ...] = ()


def labels_from_csv(path: Path, names: Sequence[str], labels: Sequence[str]) -> LabelsFound:
    """Classes from a table with a header; rows of other files are ignored.

    The file is in the first of the columns `FILE_COLUMNS`; the class is an index from 0 in the
    first of `INDEX_COLUMNS`, else a label or an index in the first of `LABEL_COLUMNS`. A file
    is named as below the folder, or by its last part where that is unique.

    Raises:
        ArtifactError: No such columns, no row for any image, a class that does not exist, or
            two classes for one image.
    """
    rows, file_column, class_column = _table(path)
    wanted = _by_unique_last_part(names)
    found: dict[str, int] = {}
    for line, row in rows:
        given = (row.get(file_column) or "").strip().replace("\\", "/")
        name = wanted.get(given.removeprefix("./"))
        if name is None:
            continue
        text = (row.get(class_column) or "").strip()
        index = _index(text, labels, names_too=class_column.strip().lower() in LABEL_COLUMNS)
        if index is None:
            raise ArtifactError(f"{path}, line {line}: {_not_a_class(text, labels)}")
        if found.setdefault(name, index) != index:
            raise ArtifactError(f"{path}, line {line}: {name} has class {found[name]} and {index}")
    if not found:
        raise ArtifactError(f"{path}: column {file_column!r} names none of the images; check it")
    notes = _unlabelled_note(len(names) - len(found), path)
    return LabelsFound(by_name=found, origin="csv", notes=notes)


def labels_from_folders(names: Sequence[str], labels: Sequence[str]) -> LabelsFound:
    """Classes from the first folder of each name: a label or an index.

    Folders that are neither, but are as many as there are labels, count in sorted order: the
    rule of torchvision's ImageFolder, by which such a data set was trained.

    Raises:
        ArtifactError: Some folders name a class and others do not.
    """
    folders = sorted({name.split("/")[0] for name in names})
    by_folder = {folder: _index(folder, labels, names_too=True) for folder in folders}
    unknown = [folder for folder, index in by_folder.items() if index is None]
    notes: tuple[str, ...] = ()
    if len(unknown) == len(folders) == len(labels):
        by_folder = {folder: index for index, folder in enumerate(folders)}
        notes = ("sub-folders taken as classes 0, 1, … in sorted order, as ImageFolder does",)
    elif len(unknown) == len(folders):
        note = f"sub-folders name no class ({folders[0]!r}), so the images have no labels"
        return LabelsFound(by_name={}, origin="none", notes=(note,))
    elif unknown:
        raise ArtifactError(f"golden images: folder {_not_a_class(unknown[0], labels)}")
    found = {name: by_folder[name.split("/")[0]] for name in names}
    return LabelsFound(
        by_name={name: index for name, index in found.items() if index is not None},
        origin="folders",
        notes=notes,
    )


def labels_from_prefixes(names: Sequence[str], labels: Sequence[str]) -> LabelsFound:
    """Classes from the start of the file names, before the first "-" or "_".

    All names must begin with a class or none is taken: a camera's "2024-01-31.jpg" is no class.
    """
    found: dict[str, int] = {}
    for name in names:
        match = PREFIX.match(name.rpartition("/")[2])
        index = _index(match[1], labels, names_too=True) if match else None
        if index is not None:
            found[name] = index
    if len(found) == len(names):
        return LabelsFound(by_name=found, origin="prefixes")
    notes: tuple[str, ...] = ()
    if found:
        notes = (
            f"{len(found)} of {len(names)} names begin with a class, so none is taken for one",
        )
    return LabelsFound(by_name={}, origin="none", notes=notes)


def _table(path: Path) -> tuple[list[tuple[int, dict[str, str]]], str, str]:
    """Rows with their line numbers, and the columns of the file and of the class."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a table of labels") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv_module.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = {column.strip().lower(): column for column in reversed(reader.fieldnames or [])}
    file_column = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
    class_names = (*INDEX_COLUMNS, *LABEL_COLUMNS)
    class_column = next((columns[name] for name in class_names if name in columns), None)
    if file_column is None or class_column is None:
        raise ArtifactError(
            f"{path}: columns are {', '.join(columns) or 'none'}; expected one of "
            f"{', '.join(FILE_COLUMNS)} and one of {', '.join(class_names)}"
        )
    try:
        return [(reader.line_num, row) for row in reader], file_column, class_column
    except csv_module.Error as error:
        raise ArtifactError(f"{path}, line {reader.line_num}: {error}") from error


def _by_unique_last_part(names: Sequence[str]) -> dict[str, str]:
    """Each name, and its last part where no other name shares it → the name."""
    count = Counter(name.rpartition("/")[2] for name in names)
    short = {name.rpartition("/")[2]: name for name in names}
    return {part: name for part, name in short.items() if count[part] == 1} | {
        name: name for name in names
    }


def _index(text: str, labels: Sequence[str], *, names_too: bool) -> int | None:
    """The class `text` means: a label that is unique, else an index from 0; None: neither."""
    if names_too and labels.count(text) == 1:
        return labels.index(text)
    if text.isascii() and text.isdecimal() and int(text) < len(labels):
        return int(text)
    return None


def _not_a_class(text: str, labels: Sequence[str]) -> str:
    if (count := labels.count(text)) > 1:
        return f"{text!r} is the label of {count} classes; use the index of the class"
    return f"{text!r} is neither a label nor an index from 0 to {len(labels) - 1}"


def _unlabelled_note(count: int, path: Path) -> tuple[str, ...]:
    return (f"{count} images have no row in {path.name} and no label",) if count else ()


Kind = Literal["logits", "probabilities"]
SUM_TOLERANCE = 1e-3
"""Probabilities of 1000 classes rounded to half precision still sum to 1 within this."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Logits or probabilities by image.

    Attributes:
        kind: What the rows are.
        by_name: File name → float64 row of shape (classes,), all finite, of equal width.
        path: The file they come from.
    """

    kind: Kind
    by_name: Mapping[str, NDArray[np.float64]]
    path: Path

    def rows(self, names: Sequence[str], num_classes: int) -> NDArray[np.float64]:
        """The rows of the images `names`, in this order, shape (len(names), num_classes).

        A name is looked up whole and then by its last part, where the reference uses no folders.

        Raises:
            ArtifactError: An image has no row, or rows have another width.
        """
        width = next(iter(self.by_name.values())).size
        if width != num_classes:
            raise ArtifactError(
                f"{self.path}: rows have {width} values, the network gives {num_classes} logits"
            )
        keys = [name if name in self.by_name else name.rpartition("/")[2] for name in names]
        missing = [name for name, key in zip(names, keys, strict=True) if key not in self.by_name]
        if missing:
            raise ArtifactError(
                f"{self.path}: no row for {len(missing)} of {len(names)} golden images, such as "
                f"{missing[0]!r}; it has {len(self.by_name)} rows, such as "
                f"{next(iter(self.by_name))!r}"
            )
        if len(set(keys)) != len(keys):
            raise ArtifactError(
                f"{self.path}: two golden images share one row; name them with their folders"
            )
        return np.stack([self.by_name[key] for key in keys])


def read_reference(path: Path) -> Reference:
    """Read a reference.

    JSON: {"a.png": [row], …}, bare or below the key "logits" or "probabilities". npz: `files`
    (names) beside `logits` or `probabilities` (one row a name). A bare object whose rows all
    lie in [0, 1] and sum to 1 holds probabilities.

    Raises:
        ArtifactError: Neither form, rows of different width, or a value that is not finite.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected JSON or npz") from error
    kind, rows = _from_npz(path) if is_zip else _from_json(path)
    if not rows:
        raise ArtifactError(f"{path}: holds no row; expected one for each golden image")
    arrays = {name: _row(name, values, path) for name, values in rows.items()}
    widths = {row.size for row in arrays.values()}
    if len(widths) != 1:
        raise ArtifactError(f"{path}: rows have {sorted(widths)} values; expected equal width")
    matrix = np.stack(list(arrays.values()))
    if kind == "probabilities" and not _are_probabilities(matrix):
        raise ArtifactError(f"{path}: rows called probabilities do not lie in [0, 1] and sum to 1")
    guessed: Kind = "probabilities" if _are_probabilities(matrix) else "logits"
    return Reference(kind=kind or guessed, by_name=arrays, path=path)


def _from_npz(path: Path) -> tuple[Kind | None, Mapping[str, Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{path}: not an npz file of plain arrays ({error}); save it with numpy.savez"
        ) from error
    names, kind = arrays.get("files"), _kind_in(arrays, path)
    if names is None or kind is None:
        raise ArtifactError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; expected files, and logits or "
            "probabilities"
        )
    if names.ndim != 1 or arrays[kind].ndim != 2 or len(names) != len(arrays[kind]):
        raise ArtifactError(
            f"{path}: files has shape {names.shape}, {kind} {arrays[kind].shape}; expected (n,) "
            "and (n, classes)"
        )
    rows = {str(name): row for name, row in zip(names, arrays[kind], strict=True)}
    if len(rows) != len(names):
        raise ArtifactError(f"{path}: a name stands in files twice")
    return kind, rows


def _from_json(path: Path) -> tuple[Kind | None, Mapping[str, Any]]:
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except ValueError as error:
        raise ArtifactError(f"{path}: neither npz nor JSON ({error})") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: a {type(value).__name__}; expected an object file → row")
    kind = _kind_in(value, path)
    rows = value if kind is None else value[kind]
    if not isinstance(rows, dict):
        raise ArtifactError(f"{path}: {kind} is no object; expected file → row")
    images = rows.get("images")
    if isinstance(images, dict):
        raise ArtifactError(
            f"{path}: holds descriptions of images, not rows of all classes; give the npz of the "
            'logits, or {"file": [logits of all classes]}'
        )
    return kind, rows


def _kind_in(values: Mapping[str, Any], path: Path) -> Kind | None:
    kinds: tuple[Kind, Kind] = ("logits", "probabilities")
    there = [kind for kind in kinds if kind in values]
    if len(there) == 2:
        raise ArtifactError(f"{path}: holds logits and probabilities; keep the logits alone")
    return there[0] if there else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def _row(name: str, values: Any, path: Path) -> NDArray[np.float64]:
    try:
        row = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {name}: not a row of numbers; expected a list") from error
    if row.ndim != 1 or not row.size:
        raise ArtifactError(f"{path}: {name}: shape is {row.shape}, expected (classes,)")
    if not np.isfinite(row).all():
        raise ArtifactError(f"{path}: {name}: has NaN or infinite values; compute it again")
    return row


def _are_probabilities(matrix: NDArray[np.float64]) -> bool:
    inside = bool(((matrix >= 0) & (matrix <= 1)).all())
    return inside and bool((np.abs(matrix.sum(axis=1) - 1) <= SUM_TOLERANCE).all())


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
