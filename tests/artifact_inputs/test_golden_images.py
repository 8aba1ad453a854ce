"""Golden images: which are taken, and where their classes come from."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_classifier.artifact.format import ArtifactError
from importer.golden_images import balanced_choice, read_golden_images
from importer.labels import read_labels
from tests.artifact_inputs.image_folders import IMAGE, LABELS, classes, folder_of
from tests.shared_data import SHARED, needs_shared_data


def test_images_without_any_hint_have_no_label(tmp_path: Path) -> None:
    golden = read_golden_images(folder_of(tmp_path, "b.png", "a.png"), LABELS, 10)

    assert classes(golden) == {"a.png": None, "b.png": None}
    assert [image.name for image in golden.images] == ["a.png", "b.png"]
    assert golden.images[0].data == IMAGE + b"a.png"
    assert (golden.labels_from, golden.notes) == ("none", ())


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
