"""Class names, in the order of the logits."""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from importer.errors import ImportRefused

MAX_BYTES = 16 << 20
"""ImageNet-21k takes 0.5 MB; a larger file was given by mistake."""
WORDNET_ID = re.compile(r"n\d{8}")
HEADER = re.compile(
    r"(?:(?:|unnamed: 0|id|index|idx|target|class_?id|class_?index)\s*[,;:\t]\s*)?"
    r"(?:labels?|class(?:es)?|class[ _]?names?|label[ _]?names?|names?|categor(?:y|ies))",
    re.IGNORECASE,
)
INDEXED = re.compile(r"(?P<index>\d{1,9})\s*[,;:=|\t]\s*(?P<name>.+)")
COUNTED = re.compile(r"\d{1,9}\s*([,;:=|\t])\s*.+\1\s*[\d.]+")
"""An index, a name and a number, as in "0,cat,120"."""
NUMBERED = (
    re.compile(r"(?P<index>\d{1,9})[ .)-]+(?P<name>\S.*)"),
    re.compile(r"(?P<name>.*[^\s,;:=|(])[\s,;:=|(]+(?P<index>\d{1,9})\)?"),
)
"""Names beside numbers: "1. cat", "cat 0", "cat,0"."""
QUOTED = re.compile(r"""(^|[,;:=|\t]\s*)(["'])((?:(?!\2).)*)\2(?:,$|(?=\s*(?:[,;:=|\t]|$)))""")
"""A quoted field of a line, with the comma that ends the line of a list."""
AS_JSON = 'if this is the name of a class, give the names as a JSON list: ["…", "…"]'


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """The content of a label file.

    Attributes:
        labels: Position n names class n.
        notes: Sentences for the operator about text that was removed.
    """

    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labels(path: Path) -> LabelFile:
    """Read names from text with one name per line, a JSON list, or a JSON object id → name.

    The object may also be the key "id2label" of another, as in a config.json of transformers.

    In JSON, a name may be ImageNet's pair [WordNet id, name]. In text, a header, a column of
    indexes, WordNet ids and quotes are removed with a note. Names may repeat: "maillot" does so
    in some lists of ImageNet.

    Raises:
        ImportRefused: The file has another form or another encoding than UTF-8, an empty name,
            other ids than 0, 1, 2, …, or a line with more than a name.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ImportRefused(
            f"{path}: has {size} bytes, expected a file of names with at most {MAX_BYTES}"
        )
    if "\0" in (text := read_utf8(path)):
        raise ImportRefused(f"{path}: holds zero bytes; expected a text file of names")
    notes: list[str] = []
    if text.lstrip().startswith(("[", "{")):
        names = _names_from_json(text, path)
    else:
        names = _names_from_lines(text, path, notes)
    labels = tuple(composed(name.strip()) for name in names)
    if not any(labels):
        raise ImportRefused(f"{path}: holds no label; expected one name per line, or JSON")
    if empty := [position for position, label in enumerate(labels) if not label]:
        raise ImportRefused(
            f"{path}: the name of class {empty[0]} is empty ({len(empty)} in all); every class "
            "needs a name, and an empty line would shift those after it"
        )
    return LabelFile(labels=labels, notes=tuple(f"{path.name}: {note}" for note in notes))


def check_label_count(labels: Sequence[str], num_classes: int, activation: str) -> None:
    """Require one label per output, or two for a single sigmoid output, which scores the second."""
    binary = (num_classes, activation, len(labels)) == (1, "sigmoid", 2)
    if len(labels) == num_classes or binary:
        return
    hint = ""
    if len(labels) == num_classes + 1:
        hint = f"; the first is {labels[0]!r}: remove it if it is a header or a background class; "
        hint += "of ordinal outputs (CORAL), return a score for each class"
    raise ImportRefused(
        f"labels: {len(labels)} names for the network's {num_classes} outputs; expected a name for "
        f"each output, in the order of the training{hint}"
    )


def read_utf8(path: Path) -> str:
    """Return the composed text of a UTF-8 file, refusing others, without its byte order mark."""
    try:
        return composed(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ImportRefused(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def composed(text: str) -> str:
    """Return text with composed accents (NFC), since macOS decomposes them in names of files."""
    return unicodedata.normalize("NFC", text)


def _names_from_lines(text: str, path: Path, notes: list[str]) -> list[str]:
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text.rstrip())]
    first_line = 1
    plain = [QUOTED.sub(r"\1\3", line) for line in lines]
    if len(lines) > 1 and HEADER.fullmatch(plain[0]):
        notes.append(f"line 1, {lines[0]!r}, is taken for a header and left out")
        lines, plain, first_line = lines[1:], plain[1:], 2
    if quoted := sum(line != bare for line, bare in zip(lines, plain, strict=True)):
        notes.append(f"quotes in {quoted} lines are removed")

    names = _without_index(plain, path, first_line, notes)
    with_id = [re.fullmatch(rf"{WORDNET_ID.pattern}[\s,;:=|]+(.+)", name) for name in names]
    if all(with_id):
        names = [match[1] for match in with_id if match]
        notes.append("WordNet ids in front of the names are left out")
    for number, (line, name) in enumerate(zip(lines, names, strict=True), start=first_line):
        if "\t" in name or '"' in name[:1] + name[-1:]:
            raise ImportRefused(
                f"{path}, line {number}: {line!r} is more than a name; expected one name per line; "
                f"{AS_JSON}"
            )
    return names


def _without_index(lines: list[str], path: Path, first_line: int, notes: list[str]) -> list[str]:
    """Return the names in the order of the indexes in front of them, if every line has one.

    Refuses indexes that only some lines have, that do not count all classes from 0 or 1, or that
    are not separated from the names.
    """
    where = f"{path}, line {first_line}: {lines[0]!r}"
    matches = [match for line in lines if (match := INDEXED.fullmatch(line))]
    if all(map(COUNTED.fullmatch, lines)):
        raise ImportRefused(
            f"{where} has a number after its name, as every line does; expected one name per line; "
            f"{AS_JSON}"
        )
    if len(matches) == len(lines):
        names = {int(match["index"]): match["name"] for match in matches}
        start = min(names)
        if start > 1 or sorted(names) != [*range(start, start + len(lines))]:
            raise ImportRefused(
                f"{where} looks like an index and a name, but the indexes do not count from "
                f"{min(start, 1)} to {min(start, 1) + len(lines) - 1}; {AS_JSON}"
            )
        notes.append(
            f"the first column is taken for the index of the class, from {start}, and left out: "
            f"{matches[0][0]!r} is {matches[0]['name']!r}, class {int(matches[0]['index']) - start}"
        )
        return [names[index] for index in sorted(names)]
    if len(matches) > 1:  # a single match may be a name: "101, road"
        number, line = next(
            item for item in enumerate(lines, first_line) if not INDEXED.fullmatch(item[1])
        )
        raise ImportRefused(
            f"{path}, line {number}: {line!r} has no index in front, other lines have one, "
            f"such as {matches[0][0]!r}; write it here too, or {AS_JSON}"
        )
    for form in NUMBERED:
        found = [match for line in lines if (match := form.fullmatch(line))]
        numbers = sorted(int(match["index"]) for match in found)
        counting = numbers in ([*range(len(lines))], [*range(1, len(lines) + 1)])
        # Not "grade 0", "grade 1": the names differ without their numbers.
        if counting and len({match["name"] for match in found}) == len(lines) > 1:
            raise ImportRefused(
                f"{where} has a number beside its name, as every line does, and the numbers count "
                f"the classes; expected the names alone, in the order of their numbers; {AS_JSON}"
            )
    return lines


def _names_from_json(text: str, path: Path) -> list[str]:
    try:
        value: Any = json.loads(text, object_pairs_hook=tuple)  # keeps keys that repeat
    except (ValueError, RecursionError) as error:
        raise ImportRefused(
            f"{path}: starts like JSON, but {error}; expected a list of names or an object "
            "id → name"
        ) from error
    if isinstance(value, tuple):
        value = dict(value).get("id2label", value)  # config.json of transformers
    if isinstance(value, list):
        return [_name(entry, position, path) for position, entry in enumerate(value)]
    if value and all(type(entry) is int for _, entry in value):
        raise ImportRefused(
            f"{path}: is name → id, as ImageFolder's class_to_idx; expected id → name, or the "
            "names as a JSON list: json.dump(dataset.classes, file)"
        )
    by_id = {int(key): entry for key, entry in value if re.fullmatch("[0-9]{1,9}", key)}
    if missing := sorted(set(range(len(value))) - by_id.keys()):
        raise ImportRefused(
            f"{path}: {len(value)} labels, but class {missing[0]} has none; expected id → name, "
            f"each id from 0 to {len(value) - 1} once; the first key is {value[0][0]!r}; if the "
            "keys are folders of ImageFolder, list the names in the order of sorted(keys), as text"
        )
    return [_name(by_id[class_id], class_id, path) for class_id in range(len(value))]


def _name(entry: object, position: int, path: Path) -> str:
    if isinstance(entry, list) and len(entry) == 2 and WORDNET_ID.fullmatch(str(entry[0])):
        entry = entry[1]
    if not isinstance(entry, str):
        raise ImportRefused(
            f"{path}: class {position} is {json.dumps(entry)[:60]}, expected a name"
        )
    return entry
