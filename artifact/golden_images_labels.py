"""The true class of each golden image: from a table, from sub-folders, from file names."""

import csv as csv_module
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifact.errors import ArtifactError

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
