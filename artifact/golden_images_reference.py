"""The numbers a researcher's own notebook computed for the golden images."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from artifact.errors import ArtifactError

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
