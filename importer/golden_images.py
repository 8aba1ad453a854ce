"""Golden images: which files are chosen, and the class that a table or a folder gives each."""

import csv as csv_module
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image

from importer.errors import ImportRefused
from importer.labels import composed, read_utf8
from preprocessing import (
    DecodeLimits,
    DecodeRules,
    Preprocessing,
    PreprocessingBug,
    SpecPreprocessing,
    decode_image,
)
from preprocessing.decode import container_of, to_colour_mode, upright_turn
from preprocessing.errors import ImageRejected

CSV_NAME = "labels.csv"
SPLITS = {
    *("train", "training", "training_set", "val", "valid", "validation"),
    *("test", "testing", "test_set"),
}
"""Folders that hold a part of the data, with the folders of the classes inside."""


@dataclass(frozen=True, kw_only=True)
class GoldenImage:
    """One original image file.

    Attributes:
        name: Path below the folder, forward slashes: "7-03.png" or "cat/001.jpg".
        data: The bytes of the file, unchanged.
        class_text: Its class, as in the table or the name of the folder; None if unknown.
        class_from: Where the class is given: "labels.csv, line 2" or "golden images, folder cat".
    """

    name: str
    data: bytes
    class_text: str | None = None
    class_from: str = ""


@dataclass(frozen=True, kw_only=True)
class GoldenImages:
    """The chosen images.

    Attributes:
        images: In the order of their names.
        indexed: Whether `class_text` is an index, from the column "class_index" of the table.
        folders: All sub-folders with images, sorted as text, if classes come from them.
        notes: Sentences for the operator: which files were left out, and why.
    """

    images: tuple[GoldenImage, ...]
    indexed: bool = False
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...]


def read_golden_images(
    folder: Path,
    max_count: int,
    csv: Path | None = None,
    *,
    only: Collection[str] | None = None,
) -> GoldenImages:
    """Choose golden images from a folder and its sub-folders.

    The class comes from `csv`, else from `labels.csv` in the folder, else from the name of the
    first sub-folder (below train, val or test), else it is unknown. If there are too many images,
    classes are represented as evenly as possible, and within a class the sha256 of the name
    decides: the same files give the same choice on every machine. Hidden files, and files that do
    not begin like an image, are left out.

    Args:
        max_count: Number of images to keep, at least 1.
        csv: Table with a header and the columns "file" and "label" (the name of a class, or its
            index from 0) or "class_index" (from 0).
        only: Choose only images whose name, or its last part, is one of these.

    Raises:
        ImportRefused: No image, a table that cannot be read, or a name that is not UTF-8.
    """
    all_names, notes = _image_names(folder)
    names = all_names
    if only is not None:
        wanted = set(map(composed, only))
        spelled = {name: composed(name) for name in all_names}
        names = [name for name, key in spelled.items() if {key, key.rpartition("/")[2]} & wanted]
        if not names:
            raise ImportRefused(
                f"{folder}: the reference has none of its images, such as {all_names[0]!r}, but "
                f"{min(only)!r}; save the numbers of these files under their names in the folder"
            )
        if left_out := len(all_names) - len(names):
            notes.append(f"{left_out} of {len(all_names)} images have no row in the reference")
    if csv is None and (folder / CSV_NAME).is_file():
        csv = folder / CSV_NAME
    indexed = False
    classes: dict[str, tuple[str, str]] = {}
    folders: tuple[str, ...] = ()
    if csv is not None:
        indexed, classes = _classes_from_table(csv, names)
        if unlabelled := len(names) - len(classes):
            notes.append(f"{unlabelled} images have no row in {csv.name} and no class")
    elif folder_of := _class_folders(names):
        classes = {
            name: (text, f"golden images, folder {text}") for name, text in folder_of.items()
        }
        folders = tuple(sorted(set(folder_of.values())))
    chosen = balanced_choice(names, {name: text for name, (text, _) in classes.items()}, max_count)
    if len(chosen) < len(names):
        notes.append(f"{len(chosen)} of {len(names)} images chosen, evenly over the classes")
    images: dict[bytes, GoldenImage] = {}
    for name in chosen:
        if name != name.encode(errors="ignore").decode():  # the manifest could not hold it
            raise ImportRefused(f"{folder}: the name of {name!r} is not UTF-8; rename the file")
        text, source = classes.get(name, (None, ""))
        data = (folder / name).read_bytes()
        image = GoldenImage(name=name, data=data, class_text=text, class_from=source)
        images.setdefault(sha256(data).digest(), image)
    if copies := len(chosen) - len(images):
        notes.append(f"copies of golden images are left out: {copies}")
    return GoldenImages(
        images=tuple(images.values()), indexed=indexed, folders=folders, notes=tuple(notes)
    )


def _class_folders(names: Sequence[str]) -> dict[str, str]:
    """Return the folder that names the class of each image; nothing if an image is in none.

    It is the first one, or the second one if all first ones hold splits of the data.
    """
    parts = {name: composed(name).split("/")[:-1] for name in names}
    splits = all(folders and folders[0].lower() in SPLITS for folders in parts.values())
    if not all(len(folders) > splits for folders in parts.values()):
        return {}
    return {name: folders[splits] for name, folders in parts.items()}


def balanced_choice(
    names: Iterable[str], class_by_name: Mapping[str, str], max_count: int
) -> list[str]:
    """Return at most `max_count` of `names`, sorted, as evenly over the classes as possible.

    Images without a class count as one more class. Names are ranked within their class by their
    sha256, so that a further class does not change the choice within the others.
    """
    digests = {name: sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names}
    ranked: list[tuple[int, str]] = []
    seen: Counter[str | None] = Counter()
    for name in sorted(digests, key=lambda name: digests[name]):
        label = class_by_name.get(name)
        ranked.append((seen[label], name))
        seen[label] += 1
    ranked.sort(key=itemgetter(0))  # stable: images of one rank stay in the order of their sha256
    return sorted(name for _, name in ranked[:max_count])


def decoding_notes(images: Iterable[GoldenImage], rules: DecodeRules) -> tuple[str, ...]:
    """Return notes on images that the rules decode otherwise than most notebooks.

    Most notebooks call `Image.open(file).convert(mode)`. All images must be decodable.
    """
    different: dict[str, list[str]] = defaultdict(list)
    unturned: list[str] = []
    for image in images:
        kinds = []
        with Image.open(BytesIO(image.data)) as opened:
            if opened.mode.startswith("I"):
                kinds.append(f"16-bit grey (decode.grey16: {rules.grey16}, before any class)")
            if opened.has_transparency_data:
                kinds.append(f"transparent (decode.alpha: {rules.alpha})")
            if upright_turn(opened) is not None:
                if rules.exif_orientation:
                    kinds.append("turned by EXIF (decode.exif_orientation: true)")
                else:
                    unturned.append(image.name)
            if not kinds:
                continue
            notebook = np.asarray(opened.convert(rules.mode))
        served = np.asarray(decode_image(image.data, rules, DecodeLimits()))
        if not np.array_equal(served, notebook):
            different[" and ".join(kinds)].append(image.name)
    notes = [
        f"{_count(names)} {kinds}: this preprocessing decodes other pixels than "
        f'Image.open(file).convert("{rules.mode}"); if your notebook calls that, its numbers differ'
        for kinds, names in different.items()
    ]
    if unturned:
        notes.append(
            f"{_count(unturned)} turned by the EXIF orientation, which this preprocessing ignores, "
            "as torchvision's transforms do; decode.exif_orientation in a spec applies it"
        )
    return tuple(notes)


def transparency_notes(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return a note if a class treats transparent pixels, which it never gets, in its own way."""
    rules = preprocessing.decode
    transparent = Image.radial_gradient("L").convert(rules.mode)
    transparent.putalpha(Image.linear_gradient("L"))
    served = to_colour_mode(transparent.copy(), rules)
    with suppress(ImageRejected, PreprocessingBug):  # most classes take opaque images only
        if not np.array_equal(
            preprocessing.to_input(transparent), preprocessing.to_input(served), equal_nan=True
        ):
            return (
                "the preprocessing class treats transparent pixels in its own way, but gets images "
                f"without any: decode.alpha ({rules.alpha}) applies before; if your notebook gives "
                "it transparent images, their numbers differ",
            )
    return ()


def unseen_kinds(
    images: Sequence[GoldenImage], preprocessing: Preprocessing | None = None
) -> list[str]:
    """Name the common sizes of pictures that are not among the images; all must be decodable.

    Args:
        preprocessing: If it resizes, pictures that it makes smaller are a kind, too: filters
            differ most there.
    """
    kinds = {"other than square"}
    for image in images:
        with Image.open(BytesIO(image.data)) as opened:
            if opened.width != opened.height:
                kinds.discard("other than square")
    unresized = isinstance(preprocessing, SpecPreprocessing) and preprocessing.spec.resize is None
    if preprocessing is None or unresized:
        return sorted(kinds)
    if not any(_is_made_smaller(image, preprocessing) for image in images):
        kinds.add("made smaller")
    return sorted(kinds)


def _is_made_smaller(image: GoldenImage, preprocessing: Preprocessing) -> bool:
    """Return whether a resize makes a decoded image smaller on both sides.

    For a class of the user's this is a guess: whether its input is smaller.
    """
    decoded = decode_image(image.data, preprocessing.decode, DecodeLimits())
    height, width, _ = preprocessing.input_spec.shape
    if isinstance(preprocessing, SpecPreprocessing):
        width, height = preprocessing.resized_size(decoded.size)
    return decoded.width > width and decoded.height > height


def _count(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"golden image {names[0]} is"
    return f"{len(names)} golden images, such as {names[0]}, are"


def _classes_from_table(
    path: Path, names: Sequence[str]
) -> tuple[bool, dict[str, tuple[str, str]]]:
    """Return whether the classes are indexes, and image name → class and line.

    Rows of other files are ignored. A row names a file by its path below the folder, or by its last
    part if that is unique.
    """
    text = io.StringIO(read_utf8(path), newline="")
    reader = csv_module.DictReader(text, skipinitialspace=True)
    columns = [column.strip() for column in reader.fieldnames or []]
    reader.fieldnames = columns
    column = "label" if "label" in columns else "class_index"
    if not {"file", column} <= set(columns):
        raise ImportRefused(
            f"{path}, line 1: the columns are {', '.join(columns) or 'none'}; expected a header "
            "with file and label (or class_index, from 0), separated by commas"
        )
    last_parts = Counter(name.rpartition("/")[2] for name in names)
    name_of = {name.rpartition("/")[2]: name for name in names}
    name_of = {last: name for last, name in name_of.items() if last_parts[last] == 1}
    name_of |= {name: name for name in names}
    name_of = {composed(key): name for key, name in name_of.items()}
    classes: dict[str, tuple[str, str]] = {}
    try:
        for row in reader:
            file = (row["file"] or "").strip().replace("\\", "/").removeprefix("./")
            name = name_of.get(file, "")
            if not name:
                continue
            line = f"{path}, line {reader.line_num}"
            text_of_class = (row[column] or "").strip()
            if not text_of_class:
                raise ImportRefused(f"{line}: {name} has no {column}; add it or remove the row")
            previous, _ = classes.setdefault(name, (text_of_class, line))
            if previous != text_of_class:
                raise ImportRefused(f"{line}: {name} is {text_of_class!r}, and {previous!r} above")
    except csv_module.Error as error:
        raise ImportRefused(f"{path}, line {reader.line_num}: {error}") from error
    if not classes:
        raise ImportRefused(f"{path}: column 'file' names none of the images; check it")
    return column == "class_index", classes


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted, without hidden files and folders."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def begins_like_image(path: Path) -> bool:
    """Return whether a file begins like an image of a supported format."""
    with path.open("rb") as file:
        return container_of(file.read(12)) is not None


def _image_names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the images below `folder`, and a note on other files."""
    names: list[str] = []
    others: list[str] = []
    for path in visible_files(folder):
        (names if begins_like_image(path) else others).append(path.relative_to(folder).as_posix())
    if not names:
        raise ImportRefused(
            f"{folder}: holds no image ({len(others)} other files); expected JPEG, PNG, WebP, GIF "
            "or BMP"
        )
    others = [name for name in others if name != CSV_NAME]
    if not others:
        return names, []
    shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
    return names, [f"{len(others)} files skipped that are not images: {shown}"]
