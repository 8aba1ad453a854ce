"""The numbers that a notebook computed for golden images."""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from importer.errors import ImportRefused
from importer.labels import composed
from importer.pixels_to_logits import remedy_of_infinity
from importer.plausibility import output_kind

Kind = Literal["logits", "probabilities"]
HOW_TO = "`model_import.py notebook` prints the lines for your notebook"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Logits or probabilities by image.

    Attributes:
        kind: What the rows are.
        by_name: File name (`composed`) → float64 row of shape (classes,), all finite, of equal
            width.
        labels: Names of the classes in the order of the columns, if the file has them.
        path: The file.
    """

    kind: Kind
    by_name: Mapping[str, NDArray[np.float64]]
    labels: tuple[str, ...] | None = None
    path: Path

    def rows(self, names: Sequence[str], num_classes: int) -> NDArray[np.float64]:
        """Return the rows of the images `names`, in this order, shape (len(names), num_classes).

        An image is found by its whole name, or else by its last part. For a single output, of two
        probabilities that sum to 1 the second is taken.

        Raises:
            ImportRefused: An image has no row, or rows have another width.
        """
        width = next(iter(self.by_name.values())).size
        pairs = (self.kind, width, num_classes) == ("probabilities", 2, 1)
        pairs = pairs and output_kind(np.stack([*self.by_name.values()])) == "probabilities"
        if width != num_classes and not pairs:
            raise ImportRefused(
                f"{self.path}: rows have {width} values, the network gives {num_classes} logits"
            )
        spelled = map(composed, names)
        keys = [name if name in self.by_name else name.rpartition("/")[2] for name in spelled]
        missing = [name for name, key in zip(names, keys, strict=True) if key not in self.by_name]
        if missing:
            raise ImportRefused(
                f"{self.path}: no row for {len(missing)} of {len(names)} golden images, such as "
                f"{missing[0]!r}; it has {len(self.by_name)} rows, such as "
                f"{next(iter(self.by_name))!r}"
            )
        if len(set(keys)) != len(keys):
            raise ImportRefused(
                f"{self.path}: two golden images share one row; name them with their folders"
            )
        return np.stack([self.by_name[key][-num_classes:] for key in keys])


def read_reference(path: Path) -> Reference:
    """Read an npz file: `files` (names) and `logits` or `probabilities`, a row per name.

    It may also hold `labels`, the names of the classes in the order of the columns.

    Raises:
        ImportRefused: Another form, or a value that is not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    # TypeError: an npy file, which is one array.
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ImportRefused(
            f"{path}: not an npz file of plain arrays ({error}); {HOW_TO}"
        ) from error
    kinds = [kind for kind in get_args(Kind) if kind in arrays]
    if "files" not in arrays or len(kinds) != 1:
        raise ImportRefused(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; expected files, and either logits or "
            f"probabilities; {HOW_TO}"
        )
    kind, names = kinds[0], arrays["files"]
    try:
        rows = arrays[kind].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ImportRefused(f"{path}: {kind} are not numbers; expected floats") from error
    if names.ndim != 1 or rows.ndim != 2 or len(names) != len(rows) or not rows.size:
        raise ImportRefused(
            f"{path}: files has shape {names.shape}, {kind} {rows.shape}; expected (n,) "
            "and (n, classes)"
        )
    keys = [composed(str(name)).replace("\\", "/") for name in names]
    by_name = dict(zip(keys, rows, strict=True))
    if len(by_name) != len(names):
        raise ImportRefused(f"{path}: a name occurs twice in files; give each file one row")
    if bad := [name for name, row in by_name.items() if not np.isfinite(row).all()]:
        raise ImportRefused(
            f"{path}: {bad[0]}: has NaN or infinite values; {remedy_of_infinity(rows)}, and "
            "compute it again"
        )
    if kind == "probabilities" and output_kind(rows) not in ("probabilities", "unit-interval"):
        raise ImportRefused(
            f"{path}: probabilities do not lie in [0, 1]; divide percentages by 100, and save "
            "logits as logits="
        )
    labels = arrays.get("labels")
    widths = {rows.shape[1], 2} if rows.shape[1] == 1 else {rows.shape[1]}  # two: "no", "yes"
    if labels is not None and (labels.ndim != 1 or len(labels) not in widths):
        raise ImportRefused(
            f"{path}: labels has shape {labels.shape}; expected ({rows.shape[1]},): the name of "
            f"the class of each column of {kind}"
        )
    return Reference(
        kind=kind,
        by_name=by_name,
        labels=None if labels is None else tuple(composed(str(label).strip()) for label in labels),
        path=path,
    )


def check_label_order(labels: Sequence[str], reference_labels: Sequence[str], source: str) -> str:
    """Compare the labels with those that the training saved.

    Case, spaces, hyphens and underscores are ignored, unless labels differ by these alone. A
    notebook may name its classes by folder, and the label file by words, so only names that both
    have, once each, are compared.

    Args:
        reference_labels: In the order of the training. Of a single output there may be two names
            ("no", "yes") in one of the lists, and in the other only the second.
        source: Where these come from, for messages.

    Returns:
        A note if the order of some labels is not proven; else nothing.

    Raises:
        ImportRefused: A common name is at another position.
    """
    sizes = len(labels), len(reference_labels)
    if sizes[0] != sizes[1] and {*sizes} != {1, 2}:
        return (
            f"{source}: has {sizes[1]} names for {sizes[0]} labels, so the order of the labels is "
            "not proven"
        )
    names, reference_names = [*map(comparable, labels)], [*map(comparable, reference_labels)]
    if len({*names}) < len({*labels}):
        names, reference_names = [*labels], [*reference_labels]
    counts = Counter(names), Counter(reference_names)
    shared = {name for name in names if counts[0][name] == counts[1][name] == 1}
    # Rows count from the end: of two names, the last is that of a single output.
    others = [row for row in range(-min(sizes), 0) if names[row] != reference_names[row]]
    for row in others:
        if shared & {names[row], reference_names[row]}:
            raise ImportRefused(
                f"labels: class {len(labels) + row} is {labels[row]!r}, in {source} it is "
                f"{reference_labels[row]!r}; put the labels in the order of the training"
            )
    # A single other name can only be that of the class without one.
    if len(others) <= min(1, len(shared)):
        return ""
    row = others[0]
    return (
        f"{source}: {len(others)} of its names are not among the labels (class "
        f"{len(labels) + row} is {reference_labels[row]!r}, here {labels[row]!r}), so their order "
        "is not proven"
    )


def comparable(label: str) -> str:
    """Return a name in lower case, with spaces for hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", label.casefold())
