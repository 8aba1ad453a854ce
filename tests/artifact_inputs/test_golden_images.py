"""Golden images: which are taken, and where their classes come from."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifact.errors import ArtifactError
from artifact.golden_images import GoldenImages, balanced_choice, read_golden_images
from artifact.labels import read_labels
from tests.shared_data import SHARED, needs_shared_data

LABELS = ("cat", "dog", "red fox", "crane", "crane")
IMAGE = b"\x89PNG\r\n\x1a\n and the rest"


def folder_of(tmp_path: Path, *names: str, table: str | None = None) -> Path:
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE + name.encode())
    if table is not None:
        (tmp_path / "images" / "labels.csv").write_text(table, encoding="utf-8")
    return tmp_path / "images"


def classes(golden: GoldenImages) -> dict[str, int | None]:
    return {image.name: image.label for image in golden.images}


def test_images_without_any_hint_have_no_label(tmp_path: Path) -> None:
    golden = read_golden_images(folder_of(tmp_path, "b.png", "a.png"), LABELS, 10)

    assert classes(golden) == {"a.png": None, "b.png": None}
    assert [image.name for image in golden.images] == ["a.png", "b.png"]
    assert golden.images[0].data == IMAGE + b"a.png"
    assert (golden.labels_from, golden.notes) == ("none", ())


def test_the_number_before_the_dash_is_the_class(tmp_path: Path) -> None:
    golden = read_golden_images(folder_of(tmp_path, "2-03.png", "0_1.png", "1-x-9.png"), LABELS, 9)

    assert classes(golden) == {"2-03.png": 2, "0_1.png": 0, "1-x-9.png": 1}
    assert golden.labels_from == "prefixes"


def test_the_label_before_the_dash_is_the_class(tmp_path: Path) -> None:
    golden = read_golden_images(folder_of(tmp_path, "dog-1.png", "cat_2.png"), LABELS, 9)

    assert classes(golden) == {"dog-1.png": 1, "cat_2.png": 0}


def test_a_label_that_is_a_number_wins_over_an_index(tmp_path: Path) -> None:
    golden = read_golden_images(folder_of(tmp_path, "1-a.png", "2-a.png"), ("1", "2", "3"), 9)

    assert classes(golden) == {"1-a.png": 0, "2-a.png": 1}


@pytest.mark.parametrize("stranger", ["2024-01-31.png", "photo.png", "-1.png", "5-1.png"])
def test_prefixes_count_only_where_all_files_have_one(tmp_path: Path, stranger: str) -> None:
    golden = read_golden_images(folder_of(tmp_path, "1-a.png", stranger), LABELS, 9)

    assert set(classes(golden).values()) == {None}
    assert "1 of 2 names begin with a class" in golden.notes[0]


def test_sub_folders_name_the_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat/1.png", "red fox/1.png", "red fox/deep/2.png", "4/1.png")

    golden = read_golden_images(folder, LABELS, 9)

    assert classes(golden) == {
        "cat/1.png": 0, "red fox/1.png": 2, "red fox/deep/2.png": 2, "4/1.png": 4,
    }  # fmt: skip
    assert golden.labels_from == "folders"


def test_as_many_unknown_folders_as_labels_count_in_order(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "n03/1.png", "n01/1.png", "n02/1.png")

    golden = read_golden_images(folder, ("x", "y", "z"), 9)

    assert classes(golden) == {"n01/1.png": 0, "n02/1.png": 1, "n03/1.png": 2}
    assert "as ImageFolder does" in golden.notes[0]


def test_fewer_unknown_folders_give_no_labels(tmp_path: Path) -> None:
    golden = read_golden_images(folder_of(tmp_path, "n03/1.png", "n01/1.png"), LABELS, 9)

    assert set(classes(golden).values()) == {None}
    assert "sub-folders name no class" in golden.notes[0]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("wolf", "'wolf' is neither a label nor an index from 0 to 4"),
        ("5", "'5' is neither a label nor an index from 0 to 4"),
        ("crane", "'crane' is the label of 2 classes; use the index"),
    ],
)
def test_a_folder_that_names_no_class_beside_one_that_does_is_refused(
    tmp_path: Path, other: str, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        read_golden_images(folder_of(tmp_path, "cat/1.png", f"{other}/1.png"), LABELS, 9)


@pytest.mark.parametrize(
    "table",
    [
        "file,class_index\na.png,1\nb.png,0\n",
        "label,filename\ndog,a.png\ncat,b.png\n",
        "FILE;Label\na.png;1\nb.png;cat\n",
        "image\tclass\tnote\na.png\tdog\t\nb.png\tcat\tx,y\n",
        "\ufefffile,label\r\na.png,dog\r\nb.png,cat\r\nnot_there.png,wolf\r\n",
        "file,name,class_index\n./a.png,x,1\nb.png,x,0\n",
    ],
)
def test_a_table_in_the_folder_gives_the_classes(tmp_path: Path, table: str) -> None:
    golden = read_golden_images(folder_of(tmp_path, "a.png", "b.png", table=table), LABELS, 9)

    assert classes(golden) == {"a.png": 1, "b.png": 0}
    assert (golden.labels_from, golden.notes) == ("csv", ())


def test_a_given_table_wins_over_folders_and_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat/0-1.png", "cat/0-2.png")
    (tmp_path / "given.csv").write_text("file,label\n0-1.png,dog\ncat\\0-2.png,2\n")

    golden = read_golden_images(folder, LABELS, 9, tmp_path / "given.csv")

    assert classes(golden) == {"cat/0-1.png": 1, "cat/0-2.png": 2}


def test_images_without_a_row_are_counted_in_a_note(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "b.png", table="file,label\na.png,dog\n")

    golden = read_golden_images(folder, LABELS, 9)

    assert classes(golden) == {"a.png": 1, "b.png": None}
    assert golden.notes == ("1 images have no row in labels.csv and no label",)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("", "columns are none"),
        ("a.png,1\n", "expected one of file, .* and one of class_index"),
        ("file,label\na.png,wolf\n", "line 2: 'wolf' is neither"),
        ("file,class_index\na.png,5\n", "line 2: '5' is neither"),
        ("file,class_index\na.png,-1\n", "line 2: '-1' is neither"),
        ("file,class_index\na.png,dog\n", "line 2: 'dog' is neither"),
        ("file,label\na.png,crane\n", "'crane' is the label of 2 classes"),
        ("file,label\na.png,1\na.png,2\n", "line 3: a.png has class 1 and 2"),
        ("file,label\nz.png,1\n", "names none of the images"),
        ("file,label\na.png\n", "line 2: '' is neither"),
    ],
)
def test_a_table_that_misleads_is_refused_with_its_line(
    tmp_path: Path, table: str, reason: str
) -> None:
    folder = folder_of(tmp_path, "a.png", table=table)

    with pytest.raises(ArtifactError, match=f"labels.csv.*{reason}"):
        read_golden_images(folder, LABELS, 9)


def test_a_table_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png")
    (tmp_path / "bad.csv").write_bytes(b"file,label\n\xff")

    with pytest.raises(ArtifactError, match="No such file"):
        read_golden_images(folder, LABELS, 9, tmp_path / "absent.csv")
    with pytest.raises(ArtifactError, match="byte 11 is not UTF-8"):
        read_golden_images(folder, LABELS, 9, tmp_path / "bad.csv")


def test_files_that_are_no_image_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", ".hidden.png", ".cache/b.png")
    (folder / "notes.txt").write_text("x")
    (folder / "cheat.jpg").write_text("no image")

    golden = read_golden_images(folder, LABELS, 9)

    assert list(classes(golden)) == ["a.png"]
    assert golden.notes == ("2 files that are no image left out: cheat.jpg, notes.txt",)


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe0", b"GIF87a", b"GIF89a", b"BM", b"RIFF\x10\0\0\0WEBP"]
)
def test_images_are_recognised_by_their_first_bytes(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "no_ending").write_bytes(start + bytes(20))
    (tmp_path / "sound.wav").write_bytes(b"RIFF\x10\0\0\0WAVE" + bytes(20))

    golden = read_golden_images(tmp_path, LABELS, 9)

    assert list(classes(golden)) == ["no_ending"]


def test_a_folder_without_images_and_no_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")

    with pytest.raises(ArtifactError, match=r"holds no image \(1 other files\)"):
        read_golden_images(tmp_path, LABELS, 9)
    with pytest.raises(ArtifactError, match="no such folder"):
        read_golden_images(tmp_path / "absent", LABELS, 9)
    with pytest.raises(ArtifactError, match="0 wanted"):
        read_golden_images(tmp_path, LABELS, 0)


def test_the_choice_is_balanced_over_the_classes(tmp_path: Path) -> None:
    names = [f"0-{n}.png" for n in range(20)] + [f"1-{n}.png" for n in range(5)] + ["2-0.png"]

    golden = read_golden_images(folder_of(tmp_path, *names), LABELS, 9)

    assert Counter(classes(golden).values()) == {0: 4, 1: 4, 2: 1}
    assert "9 of 26 images chosen" in golden.notes[0]


def test_the_choice_is_the_one_of_the_documented_rule() -> None:
    # By hand: sha256 of "a", "b", "c", "d" begins with ca, 3e, 2e, 18.
    assert balanced_choice("abcd", {}, 2) == ["c", "d"]
    # Of the classes {a, b} and {c, d} the first of each: b and d.
    assert balanced_choice("abcd", {"a": 0, "b": 0, "c": 1, "d": 1}, 2) == ["b", "d"]


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 3), min_size=1, max_size=40),
    st.integers(1, 40),
    st.randoms(),
)
def test_any_choice_is_stable_and_as_even_as_it_can_be(
    label_by_name: dict[str, int], wanted: int, random: object
) -> None:
    names = list(label_by_name)
    chosen = balanced_choice(names, label_by_name, wanted)
    random.shuffle(names)

    assert balanced_choice(names, label_by_name, wanted) == chosen
    assert len(chosen) == min(wanted, len(names))
    taken = Counter(label_by_name[name] for name in chosen)
    left = Counter(label_by_name.values()) - taken
    # A class with images left over is at most one behind the class with most.
    assert all(max(taken.values()) - taken[label] <= 1 for label in left)


@needs_shared_data
def test_the_delivered_photos_have_the_classes_of_their_table() -> None:
    folder = SHARED / "images" / "nips17_dev"
    labels = read_labels(SHARED / "weights" / "imagenet_categories.txt")
    with (folder / "labels.csv").open(newline="") as file:
        expected = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}

    golden = read_golden_images(folder, labels, 1000)

    assert len(golden.images) == 100
    assert classes(golden) == expected
    assert golden.notes == ()
    assert len(read_golden_images(folder, labels, 32).images) == 32
