"""Golden images: the choice of files, their classes, and the order of the classes."""

import functools
import os
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from importer.errors import ImportRefused
from importer.golden_images import (
    GoldenImage,
    balanced_choice,
    decoding_notes,
    read_golden_images,
    transparency_notes,
)
from importer.targets import Targets, decide_targets
from preprocessing import DecodeRules, InputSpec
from preprocessing.user_class import UserPreprocessing
from tests.preprocessing.files import encoded

LABELS = ("cat", "dog", "red fox", "crane", "crane")
IMAGE = b"\x89PNG\r\n\x1a\n and the rest"


def folder_of(tmp_path: Path, *names: str, table: str | None = None) -> Path:
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE + os.fsencode(name))
    if table is not None:
        (tmp_path / "images" / "labels.csv").write_text(table, encoding="utf-8")
    return tmp_path / "images"


def targets_of(
    folder: Path, labels: tuple[str, ...] = LABELS, answers: dict[str, int] | None = None
) -> tuple[Targets, dict[str, int | None]]:
    """Decide the classes, for a network with these answers by image name, 0 for others.

    Also returns the classes by image name.
    """
    golden = read_golden_images(folder, 1000)
    names = [image.name for image in golden.images]
    targets = decide_targets(golden, labels, np.array([(answers or {}).get(n, 0) for n in names]))
    return targets, dict(zip(names, targets.class_ids, strict=True))


def test_other_files_than_images_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", ".hidden.png", ".cache/b.png")
    (folder / "notes.txt").write_text("x")
    (folder / "sound.wav").write_bytes(b"RIFF\x10\0\0\0WAVE" + bytes(20))
    (folder / "no_ending").write_bytes(b"RIFF\x10\0\0\0WEBP" + bytes(20))

    golden = read_golden_images(folder, 9)

    assert [image.name for image in golden.images] == ["a.png", "no_ending"]
    assert golden.notes == ("2 files skipped that are not images: notes.txt, sound.wav",)
    (folder / "a.png").unlink()
    (folder / "no_ending").unlink()
    with pytest.raises(ImportRefused, match=r"holds no image \(2 other files\)"):
        read_golden_images(folder, 9)


def test_the_choice_is_balanced_over_the_classes(tmp_path: Path) -> None:
    names = [f"a/{n}.png" for n in range(20)] + [f"b/{n}.png" for n in range(5)] + ["c/0.png"]

    golden = read_golden_images(folder_of(tmp_path, *names), 9)

    assert Counter(image.class_text for image in golden.images) == {"a": 4, "b": 4, "c": 1}
    assert "9 of 26 images chosen" in golden.notes[0]
    # By hand: sha256 of "a", "b", "c", "d" begins with ca, 3e, 2e, 18.
    assert balanced_choice("abcd", {}, 2) == ["c", "d"]
    # Of the classes {a, b} and {c, d} the first of each: b and d.
    assert balanced_choice("abcd", {"a": "x", "b": "x", "c": "y", "d": "y"}, 2) == ["b", "d"]


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from("wxyz"), min_size=1),
    st.integers(1, 40),
    st.randoms(),
)
def test_any_choice_is_stable_and_as_even_as_possible(
    class_by_name: dict[str, str], max_count: int, random: Random
) -> None:
    names = list(class_by_name)
    chosen = balanced_choice(names, class_by_name, max_count)
    random.shuffle(names)

    assert balanced_choice(names, class_by_name, max_count) == chosen
    assert len(chosen) == min(max_count, len(names))
    counts = Counter(class_by_name[name] for name in chosen)
    left = Counter(class_by_name.values()) - counts
    # A class with images left over has at most one less than the largest.
    assert all(max(counts.values()) - counts[label] <= 1 for label in left)


def test_a_name_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", os.fsdecode(b"caf\xe9.png"))

    with pytest.raises(ImportRefused, match=r"'caf\\udce9\.png' is not UTF-8; rename the file"):
        read_golden_images(folder, 9)


def test_copies_of_an_image_count_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "b.png")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())

    golden = read_golden_images(folder, 9)

    assert [image.name for image in golden.images] == ["a.png", "b.png"]
    assert golden.notes == ("copies of golden images are left out: 1",)


@pytest.mark.parametrize(
    "table",
    [
        "file,label\na.png,dog\nb.png,cat\n",
        "\ufefffile, label\r\n./a.png, dog\r\nb.png,0\r\nnot_there.png,wolf\r\n",
        "file,name,class_index\na.png,x,1\nb.png,x,0\n",
        'label,file\n"dog","a.png"\ncat,b.png\n',
    ],
)
def test_a_table_in_the_folder_gives_the_classes(tmp_path: Path, table: str) -> None:
    targets, classes = targets_of(folder_of(tmp_path, "a.png", "b.png", table=table))

    assert classes == {"a.png": 1, "b.png": 0}
    (note,) = targets.notes
    assert note.startswith("classes of the golden images come from the table (")
    assert note.endswith("): a.png is 'dog', class 1")


def test_only_images_that_a_reference_names_are_chosen(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png")

    golden = read_golden_images(folder, 9, only=["cat/2.png", "3.png", "elsewhere/1.png"])

    assert [image.name for image in golden.images] == ["cat/2.png", "dog/3.png"]
    accented = folder_of(tmp_path / "macOS", "e\u0301.png")
    (image,) = read_golden_images(accented, 9, only=["é.png"]).images
    assert image.name == "e\u0301.png"
    with pytest.raises(ImportRefused, match=r"has none .* 'cat/1\.png', but 'other/1\.png'; save"):
        read_golden_images(folder, 9, only=["other/1.png"])


def test_a_table_wins_over_folders_and_images_without_a_row_are_counted(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path, "cat/0-1.png", "cat/0-2.png", "cat/0-3.png")
    (tmp_path / "own.csv").write_text("file,label\n0-1.png,dog\ncat\\0-2.png,2\n")

    golden = read_golden_images(folder, 9, tmp_path / "own.csv")

    assert [image.class_text for image in golden.images] == ["dog", "2", None]
    assert golden.notes == ("1 images have no row in own.csv and no class",)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("", "the columns are none; expected a header with file and label"),
        ("file,label\na.png,wolf\n", "line 2: 'wolf' is not a label or an index from 0 to 4"),
        ("file,class_index\na.png,dog\n", "line 2: 'dog' is not an index"),
        ("file,label\na.png,crane\n", "line 2: 'crane' is the label of 2 classes"),
        ("file,label\na.png,1\na.png,2\n", "line 3: a.png is '2', and '1' above"),
        ("file,label\nz.png,1\n", "names none of the images"),
        ("file,label\na.png\n", "line 2: a.png has no label"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path: Path, table: str, reason: str) -> None:
    with pytest.raises(ImportRefused, match=f"labels.csv.*{reason}"):
        targets_of(folder_of(tmp_path, "a.png", table=table))


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("cat/1.png", "red fox/deep/2.png", "4/1.png"), LABELS, (0, 2, 4)),
        # As many unknown folders as labels are sorted; fewer give no classes.
        (("n03/1.png", "n01/1.png", "n02/1.png"), ("x", "y", "z"), (2, 0, 1)),
        (("n03/1.png", "n01/1.png"), LABELS, (None, None)),
        # Folders of splits are no classes, unless there are others.
        (("train/dog/1.png", "val/cat/2.png"), LABELS, (1, 0)),
        (("train/1.png", "val/2.png"), ("cat", "dog"), (None, None)),
        (("bus/a/1.png", "train/a/1.png"), ("bus", "train"), (0, 1)),
        # Names may differ in case, underscores and plural.
        (("Red_Foxes/a.png", "Dogs/b.png"), ("red fox", "dog"), (0, 1)),
        # With one label there is no accuracy.
        (("cat/1.png", "cat/2.png"), ("cat",), (None, None)),
    ],
)
def test_sub_folders_give_the_classes(
    tmp_path: Path,
    names: tuple[str, ...],
    labels: tuple[str, ...],
    expected: tuple[int | None, ...],
) -> None:
    targets, classes = targets_of(folder_of(tmp_path, *names), labels)

    assert classes == dict(zip(names, expected, strict=True))
    assert ("no accuracy" in targets.notes[0]) == (None in expected)
    assert ("none is a label" in targets.notes[0]) == (labels == ("x", "y", "z"))


@pytest.mark.parametrize("other", ["wolf", "5"])
def test_a_folder_without_a_class_beside_one_with_a_class_is_refused(
    tmp_path: Path, other: str
) -> None:
    with pytest.raises(ImportRefused, match=f"golden images, folder {other}: .* is not a label"):
        targets_of(folder_of(tmp_path, "cat/1.png", f"{other}/1.png"))


# ImageFolder sorts the folders "1" to "12" as text: 1, 10, 11, 12, 2, 3, …, so that the network
# answers 2 for folder 11 and 4 for folder 2.
FOLDERS = [str(number) for number in range(1, 13)]
AS_TEXT = ("1", "10", "11", "12", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.mark.parametrize(
    "labels", [tuple(FOLDERS), tuple("abcdefghijkl")], ids=["numbers", "names"]
)
@pytest.mark.parametrize("trained", ["as text", "as numbers"])
def test_the_reference_confirms_the_order_of_numeric_folders(
    tmp_path: Path, labels: tuple[str, ...], trained: str
) -> None:
    order = list(AS_TEXT) if trained == "as text" else FOLDERS
    truth = {f"{number}/a.png": order.index(number) for number in FOLDERS}

    targets, classes = targets_of(folder_of(tmp_path, *truth), labels, answers=truth)

    assert classes == truth
    assert targets.named == (labels == tuple(FOLDERS))
    assert "12 of 12 right" in "; ".join(targets.notes)
    served = {"as text": AS_TEXT, "as numbers": tuple(FOLDERS)}[trained]
    assert targets.labels == (served if labels == tuple(FOLDERS) else labels)


@pytest.mark.parametrize("names", [("1/a.png",), ("1/a.png", "2/a.png")])
def test_numeric_folders_without_evidence_are_refused_unless_accepted(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    # The network answers class 0 always: right for folder 1 in both orders, wrong for folder 2.
    golden = read_golden_images(folder_of(tmp_path, *names), 9)
    answers = np.zeros(len(names), dtype=np.int64)

    with pytest.raises(ImportRefused, match=r"named by numbers.*--accept class-order"):
        decide_targets(golden, tuple(FOLDERS), answers)
    accepted = decide_targets(golden, tuple(FOLDERS), answers, ["class-order"])

    assert accepted.class_ids == tuple(range(len(names)))
    for order in (tuple(FOLDERS), AS_TEXT):  # of the notebook
        proven = decide_targets(golden, tuple(FOLDERS), answers, trained=[order])
        assert proven.labels == order


png = functools.partial(encoded, container="PNG")
GREY16 = Image.fromarray(np.arange(0, 60_000, 1_000, dtype=np.uint16).reshape(6, 10))
CLEAR = Image.new("RGBA", (4, 4), (255, 0, 255, 0))
TURNED = Image.new("RGB", (4, 2), "red")
EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(
    ("data", "rules", "note"),
    [
        (png(GREY16), {}, "16-bit grey (decode.grey16: scale, before any class): this"),
        (png(GREY16), {"grey16": "clip"}, None),
        (png(CLEAR), {"alpha": "white"}, "transparent (decode.alpha: white): this"),
        (png(CLEAR), {}, None),  # hidden colours are shown, as convert("RGB") does
        (png(Image.new("RGBA", (4, 4), (9, 8, 7, 255))), {"alpha": "black"}, None),
        (png(TURNED, exif=EXIF), {"exif_orientation": True}, "turned by EXIF (decode"),
        (png(TURNED, exif=EXIF), {}, "turned by the EXIF orientation, which this"),
    ],
)
def test_a_note_reports_images_that_a_notebook_decodes_to_other_pixels(
    data: bytes, rules: dict[str, object], note: str | None
) -> None:
    images = [GoldenImage(name="a", data=data), GoldenImage(name="b", data=png(TURNED))]

    found = decoding_notes(images, DecodeRules.model_validate(rules))

    assert len(found) == (note is not None)
    assert note is None or f"golden image a is {note}" in found[0]


class OnWhite:
    """A class that would put a transparent image on white."""

    decode = DecodeRules()
    input_shape = (4, 4, 3)
    input_dtype = "uint8"
    mean = std = None

    def to_input(self, image: Image.Image) -> np.ndarray:
        if image.mode == "RGBA":
            canvas = Image.new("RGB", image.size, "white")
            canvas.paste(image, mask=image)
            image = canvas
        return np.asarray(image.resize((4, 4), Image.Resampling.NEAREST))


class Opaque(OnWhite):
    """A class that takes any image as RGB."""

    def to_input(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((4, 4), Image.Resampling.NEAREST))


@pytest.mark.parametrize(
    ("own", "alpha", "noted"),
    [(OnWhite, "drop", True), (OnWhite, "white", False), (Opaque, "drop", False)],
)
def test_a_note_reports_a_class_that_treats_the_transparency_it_never_gets(
    own: type, alpha: str, noted: bool
) -> None:
    rules = DecodeRules.model_validate({"alpha": alpha})
    spec = InputSpec(shape=(4, 4, 3), dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3)

    (*notes,) = transparency_notes(UserPreprocessing(own, rules, spec))

    assert len(notes) == noted
    assert not noted or f"decode.alpha ({alpha}) applies before" in notes[0]
