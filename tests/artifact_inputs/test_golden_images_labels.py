"""The classes of golden images: from a table, from sub-folders, from the start of names."""

from pathlib import Path

import pytest

from image_classifier.artifact.format import ArtifactError
from importer.golden_images import read_golden_images
from tests.artifact_inputs.image_folders import LABELS, classes, folder_of


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
