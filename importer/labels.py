"""The names of the classes, in the order of the logits."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from importer.errors import ImportRefused

MAX_BYTES = 16 << 20
"""ImageNet-21k takes 0.5 MB; a larger file was given by mistake."""
WORDNET_ID = re.compile(r"n\d{8}")
HEADER = re.compile(
    r"(?:(?:id|index|idx|class_?id|class_?index)\s*[,;:\t]\s*)?"
    r"(?:labels?|class(?:es)?|class[ _]?names?|label[ _]?names?|names?|categor(?:y|ies))",
    re.IGNORECASE,
)
QUOTED = re.compile(r"""(["'])(.*)\1,?""")
AS_JSON = 'if this is the name of a class, give the names as a JSON list: ["…", "…"]'


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """What a file of labels says.

    Attributes:
        labels: Position n names class n.
        notes: Sentences for the operator: what was taken off.
    """

    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labels(path: Path) -> LabelFile:
    """Read label names from text with one name a line, a JSON list, or JSON id → name.

    In JSON, a name may also be ImageNet's pair [WordNet id, name]. In text, a header line, a
    column of indexes and quotes around names are taken off with a note. The file is UTF-8,
    with or without byte order mark. Two classes may have the same name: ImageNet has two
    called "maillot" in some of its lists.

    Raises:
        ImportRefused: None of these forms; an empty name; ids that are not 0, 1, 2, …; a line
            that is more than a name.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ImportRefused(
            f"{path}: has {size} bytes, expected a file of names with {MAX_BYTES} at most"
        )
    if "\0" in (text := read_utf8(path)):
        raise ImportRefused(f"{path}: holds zero bytes; expected a text file of names")
    notes: tuple[str, ...] = ()
    if text.lstrip().startswith(("[", "{")):
        names = _names_from_json(text, path)
    else:
        names, notes = _names_from_lines(text, path)
    labels = tuple(name.strip() for name in names)
    if not labels:
        raise ImportRefused(f"{path}: holds no label; expected one name a line, or JSON")
    if empty := [position for position, label in enumerate(labels) if not label]:
        raise ImportRefused(
            f"{path}: the name of class {empty[0]} is empty ({len(empty)} in all); every class "
            "needs a name, and an empty line would shift those after it"
        )
    return LabelFile(labels=labels, notes=notes)


def check_label_count(labels: Sequence[str], num_classes: int, activation: str) -> None:
    """Raise where the number of labels is not the width of the logits.

    A single sigmoid output may have two labels: its probability is that of the second, and the
    first gets the rest.

    Raises:
        ImportRefused: With both numbers.
    """
    binary = (num_classes, activation, len(labels)) == (1, "sigmoid", 2)
    if len(labels) == num_classes or binary:
        return
    hint = ""
    if len(labels) == num_classes + 1:
        hint = f"; the first is {labels[0]!r}: remove it if it is a header or a background class"
    raise ImportRefused(
        f"labels: {len(labels)} names for the network's {num_classes} outputs; expected a name for "
        f"each output, in the order of the training{hint}"
    )


def read_utf8(path: Path) -> str:
    """Return the text of a file without its byte order mark.

    Raises:
        ImportRefused: It is no UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImportRefused(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def _names_from_lines(text: str, path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the names and notes on what was taken off the lines."""
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    while lines and not lines[-1]:  # editors end a file with empty lines
        lines.pop()
    notes = []
    first_line = 1
    if len(lines) > 1 and HEADER.fullmatch(lines[0].replace('"', "").replace("'", "")):
        notes.append(f"{path.name}: line 1, {lines[0]!r}, is taken for a header and left out")
        lines, first_line = lines[1:], 2

    names, column = _without_index(lines, path, first_line)
    if column:
        notes.append(f"{path.name}: {column}")
    with_id = [re.fullmatch(rf"{WORDNET_ID.pattern}[\s,;:=|]+(.+)", name) for name in names]
    if all(with_id):
        names = [match[1] for match in with_id if match]
        notes.append(f"{path.name}: WordNet ids in front of the names are left out")
    quoted = [QUOTED.fullmatch(name) for name in names]
    if any(quoted):
        names = [match[2] if match else name for match, name in zip(quoted, names, strict=True)]
        notes.append(f"{path.name}: quotes around {sum(map(bool, quoted))} names are taken off")
    for number, name in enumerate(names, start=first_line):
        if "\t" in name or '"' in name[:1] + name[-1:]:
            raise ImportRefused(
                f"{path}, line {number}: {lines[number - first_line]!r} is more than a name; "
                f"expected one name a line; {AS_JSON}"
            )
    return names, tuple(notes)


def _without_index(lines: list[str], path: Path, first_line: int) -> tuple[list[str], str]:
    """Return the names in the order of their indexes, and what was taken off.

    Raises:
        ImportRefused: Some lines have an index and others not, or the indexes do not count all
            classes from 0 or 1.
    """
    for place, pattern in (
        ("first", r"(?P<index>\d+)\s*[,;:=|\t]\s*(?P<name>.+)"),
        ("last", r"(?P<name>.+?)\s*[,;:=|\t]\s*(?P<index>\d+)"),
    ):
        found = [re.fullmatch(pattern, line) for line in lines]
        matches = [match for match in found if match]
        if place == "first" and 1 < len(matches) < len(lines):  # one may be a name: "101, road"
            number = found.index(None)
            raise ImportRefused(
                f"{path}, line {number + first_line}: {lines[number]!r} has no index in front, "
                f"other lines have one, such as {matches[0][0]!r}; write it here too, or {AS_JSON}"
            )
        if not lines or len(matches) < len(lines):
            continue
        names = {int(match["index"]): match["name"] for match in matches}
        start = min(names)
        if start > 1 or sorted(names) != [*range(start, start + len(lines))]:
            raise ImportRefused(
                f"{path}, line {first_line}: {lines[0]!r} looks like an index and a name, but the "
                f"indexes do not count from {min(start, 1)} to {min(start, 1) + len(lines) - 1}; "
                f"{AS_JSON}"
            )
        if 2 * len(set(names.values())) <= len(names):
            raise ImportRefused(
                f"{path}, line {first_line}: {lines[0]!r} looks like an index and a name, but of "
                f"{len(names)} names {len(set(names.values()))} would be left; {AS_JSON}"
            )
        note = (
            f"the {place} column is taken for the index of the class, from {start}, and left out: "
            f"{matches[0][0]!r} is {matches[0]['name']!r}, class {int(matches[0]['index']) - start}"
        )
        return [names[index] for index in sorted(names)], note
    numbers = [re.match(r"(\d+)[ .)-]+\D", line) for line in lines]
    counted = [int(match[1]) for match in numbers if match]
    if len(lines) > 1 and counted in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
        raise ImportRefused(
            f"{path}, line {first_line}: {lines[0]!r} begins with its number, as every line "
            f"does; expected the names alone; {AS_JSON}"
        )
    return lines, ""


def _names_from_json(text: str, path: Path) -> list[str]:
    def once(pairs: list[tuple[str, object]]) -> dict[int, object]:
        by_id: dict[int, object] = {}
        for key, entry in pairs:
            if (class_id := _class_id(key, path)) in by_id:
                raise ImportRefused(f"{path}: class {class_id} stands twice; give it one name")
            by_id[class_id] = entry
        return by_id

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ImportRefused(
            f"{path}: starts like JSON, but {error}; expected a list of names or an object "
            "id → name"
        ) from error
    if isinstance(value, list):
        return [_name(entry, position, path) for position, entry in enumerate(value)]
    if value and all(type(entry) is int for entry in value.values()):
        raise ImportRefused(
            f"{path}: is name → id, as ImageFolder's class_to_idx; expected id → name, or the "
            "names as a JSON list: json.dump(dataset.classes, file)"
        )
    if missing := sorted(set(range(len(value))) - value.keys()):
        raise ImportRefused(
            f"{path}: {len(value)} labels, but class {missing[0]} has none (ids go up to "
            f"{max(value)}); expected ids 0 to {len(value) - 1}"
        )
    return [_name(value[class_id], class_id, path) for class_id in range(len(value))]


def _class_id(key: str, path: Path) -> int:
    if not (key.isascii() and key.isdecimal()):
        raise ImportRefused(
            f"{path}: key {key!r} is not a class id; expected an object id → name, "
            'e.g. {"0": "cat"}, not name → id'
        )
    return int(key)


def _name(entry: object, position: int, path: Path) -> str:
    """A name, or the name in ImageNet's [WordNet id, name]."""
    if isinstance(entry, list) and len(entry) == 2 and WORDNET_ID.fullmatch(str(entry[0])):
        entry = entry[1]
    if not isinstance(entry, str):
        raise ImportRefused(
            f"{path}: class {position} is {json.dumps(entry)[:60]}, expected a name"
        )
    return entry
