"""The numbers that a notebook computed for golden images."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from importer.errors import ImportRefused
from importer.plausibility import output_kind

Kind = Literal["logits", "probabilities"]
HOW_TO = "`model_import.py notebook` prints the lines for your notebook"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Logits or probabilities by image.

    Attributes:
        kind: What the rows are.
        by_name: File name → float64 row of shape (classes,), all finite, of equal width.
        labels: Names of the classes in the order of the columns, where the file has them.
        path: The file they come from.
    """

    kind: Kind
    by_name: Mapping[str, NDArray[np.float64]]
    labels: tuple[str, ...] | None = None
    path: Path

    def rows(self, names: Sequence[str], num_classes: int) -> NDArray[np.float64]:
        """Return the rows of the images `names`, in this order, shape (len(names), num_classes).

        A name is looked up whole and then by its last part, where the reference uses no folders.

        Raises:
            ImportRefused: An image has no row, or rows have another width.
        """
        width = next(iter(self.by_name.values())).size
        if width != num_classes:
            raise ImportRefused(
                f"{self.path}: rows have {width} values, the network gives {num_classes} logits"
            )
        keys = [name if name in self.by_name else name.rpartition("/")[2] for name in names]
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
        return np.stack([self.by_name[key] for key in keys])


def read_reference(path: Path) -> Reference:
    """Read an npz file: `files` (names) beside `logits` or `probabilities`, a row a name.

    `labels`, the names of the classes in the order of the columns, may stand beside them.

    Raises:
        ImportRefused: Another form, or a value that is not finite.
    """
    arrays = _arrays(path)
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
    by_name = {str(name).replace("\\", "/"): row for name, row in zip(names, rows, strict=True)}
    if len(by_name) != len(names):
        raise ImportRefused(f"{path}: a name stands in files twice")
    if bad := [name for name, row in by_name.items() if not np.isfinite(row).all()]:
        raise ImportRefused(f"{path}: {bad[0]}: has NaN or infinite values; compute it again")
    if kind == "probabilities" and output_kind(rows) not in ("probabilities", "unit-interval"):
        raise ImportRefused(
            f"{path}: what is called probabilities does not lie in [0, 1]; divide percentages by "
            "100, and save logits as logits"
        )
    labels = arrays.get("labels")
    if labels is not None and labels.shape != (rows.shape[1],):
        raise ImportRefused(
            f"{path}: labels has shape {labels.shape}; expected ({rows.shape[1]},): the name of "
            f"the class of each column of {kind}"
        )
    return Reference(
        kind=kind,
        by_name=by_name,
        labels=None if labels is None else tuple(str(label).strip() for label in labels),
        path=path,
    )


def check_label_order(labels: Sequence[str], theirs: Sequence[str], where: str) -> str:
    """Compare the labels with those that the training left elsewhere.

    Upper and lower case, spaces, hyphens and underscores count as equal. Names that only one of
    the two has are not compared: a notebook may call its classes by folder, and the label file by
    words.

    Args:
        theirs: In the order of the training.
        where: They stand, for messages.

    Returns:
        A note where they have no name in common; else nothing.

    Raises:
        ImportRefused: A name that both have stands at another position.
    """
    own_names = [comparable(label) for label in labels]
    their_names = [comparable(label) for label in theirs]
    shared = set(own_names) & set(their_names)
    for position, (name, other) in enumerate(zip(own_names, their_names, strict=False)):
        if name != other and {name, other} <= shared:
            raise ImportRefused(
                f"labels: class {position} is {labels[position]!r}, in {where} it is "
                f"{theirs[position]!r}; put the labels in the order of the training"
            )
    if shared:
        return ""
    return (
        f"{where}: its labels are other words ({theirs[0]!r} is the first, {labels[0]!r} here): "
        "they prove nothing of the order"
    )


def comparable(label: str) -> str:
    """Return a name without what people write in several ways: case, spaces, hyphens."""
    return re.sub(r"[\s_-]+", " ", label.casefold())


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # TypeError: an npy file, which is one array.
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ImportRefused(
            f"{path}: not an npz file of plain arrays ({error}); {HOW_TO}"
        ) from error
