"""The names of the classes, in the order of the logits."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from image_classifier.artifact.format import ArtifactError

WORDNET_ID = re.compile(r"n\d{8}")
MAX_BYTES = 16 << 20
"""ImageNet-21k takes 0.5 MB; a larger file was given by mistake."""


def read_labels(path: Path) -> tuple[str, ...]:
    """Read label names; position n names class n.

    Forms, recognised by content: one name a line; a JSON list of names; a JSON object
    id → name; a JSON object id → [WordNet id, name], as ImageNet's class index file has it.
    UTF-8, with or without byte order mark. Two classes may have the same name: ImageNet has
    two called "crane".

    Raises:
        ArtifactError: None of these forms; an empty name; ids that are not 0, 1, 2, ….
    """
    text = _text(path)
    if text.lstrip().startswith(("[", "{")):
        names = _names_from_json(text, path)
    else:
        lines = re.split(r"\r\n|\r|\n", text)
        while lines and not lines[-1].strip():  # editors end a file with empty lines
            lines.pop()
        names = lines
    labels = tuple(name.strip() for name in names)
    if not labels:
        raise ArtifactError(f"{path}: holds no label; expected one name a line, or JSON")
    if empty := [position for position, label in enumerate(labels) if not label]:
        raise ArtifactError(
            f"{path}: the name of class {empty[0]} is empty ({len(empty)} in all); every class "
            "needs a name, and an empty line would shift those after it"
        )
    return labels


def check_label_count(labels: Sequence[str], num_classes: int) -> None:
    """Raise where the number of labels is not the width of the logits.

    Raises:
        ArtifactError: With both numbers.
    """
    if len(labels) == num_classes:
        return
    hint = ""
    if len(labels) == num_classes + 1 and labels[0].lower() in {"background", "dummy"}:
        hint = f"; the first label is {labels[0]!r}, which this network has no logit for"
    raise ArtifactError(
        f"labels: {len(labels)} names for {num_classes} logits; expected one name a logit{hint}"
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path}: larger than {MAX_BYTES} bytes; expected a file of names")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a file of labels") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path}: byte {error.start} is not UTF-8; save the labels as UTF-8"
        ) from error
    if "\0" in text:
        raise ArtifactError(f"{path}: holds zero bytes; expected a text file of names")
    return text


def _names_from_json(text: str, path: Path) -> list[str]:
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise ArtifactError(
            f"{path}: starts like JSON, but {error}; expected a list of names or an object "
            "id → name"
        ) from error
    if isinstance(value, list):
        return [_name(entry, position, path) for position, entry in enumerate(value)]
    by_id = {_class_id(key, path): entry for key, entry in value.items()}
    if len(by_id) != len(value):
        raise ArtifactError(f"{path}: two spellings of one class id, such as 1 and 01")
    if missing := sorted(set(range(len(by_id))) - by_id.keys()):
        raise ArtifactError(
            f"{path}: {len(by_id)} labels, but class {missing[0]} has none (ids go up to "
            f"{max(by_id)}); expected ids 0 to {len(by_id) - 1}"
        )
    return [_name(by_id[class_id], class_id, path) for class_id in range(len(by_id))]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return result


def _class_id(key: str, path: Path) -> int:
    if not (key.isascii() and key.isdecimal()):
        raise ArtifactError(
            f"{path}: key {key!r} is not a class id; expected an object id → name, "
            'e.g. {"0": "cat"}, not name → id'
        )
    return int(key)


def _name(entry: object, position: int, path: Path) -> str:
    """A name, or the name in ImageNet's [WordNet id, name]."""
    if isinstance(entry, list) and len(entry) == 2 and WORDNET_ID.fullmatch(str(entry[0])):
        entry = entry[1]
    if not isinstance(entry, str):
        raise ArtifactError(
            f"{path}: class {position} is {json.dumps(entry)[:60]}, expected a name"
        )
    return entry
