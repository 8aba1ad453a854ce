"""The npz file of a notebook's numbers: saved, read, checked, matched by file name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from importer.errors import ImportRefused
from importer.reference import Reference, check_label_order, read_reference
from model_import import main
from tests.importer.test_weights_hostile import Payload

LOGITS = {"a.png": [1.5, -2.0, 0.25], "b.png": [0.0, 3.0, -7.5]}


def npz(tmp_path: Path, **arrays: Any) -> Reference:
    np.savez(tmp_path / "reference.npz", **arrays)
    return read_reference(tmp_path / "reference.npz")


def logits(tmp_path: Path, rows: dict[str, list[float]]) -> Reference:
    return npz(tmp_path, files=list(rows), logits=list(rows.values()))


def test_rows_are_found_by_whole_name_or_last_part(tmp_path: Path) -> None:
    found = logits(tmp_path, LOGITS).rows(["b.png", "cat/a.png"], 3)
    assert found.tolist() == [[0.0, 3.0, -7.5], [1.5, -2.0, 0.25]]
    whole = logits(tmp_path, {"cat\\a.png": [1, 2], "dog/a.png": [3, 4]})  # Windows
    assert whole.rows(["dog/a.png", "cat/a.png"], 2).tolist() == [[3, 4], [1, 2]]
    for one, other in (("é.png", "e\u0301.png"), ("e\u0301.png", "é.png")):  # macOS
        assert logits(tmp_path, {one: [1, 2]}).rows([other], 2).tolist() == [[1, 2]]


def test_the_second_of_two_probabilities_is_that_of_a_single_output(tmp_path: Path) -> None:
    both = npz(tmp_path, files=["a", "b"], probabilities=[[0.75, 0.25], [0.125, 0.875]])
    assert both.rows(["b", "a"], 1).tolist() == [[0.875], [0.25]]

    for kind, row in (("probabilities", [0.75, 0.75]), ("logits", [0.75, 0.25])):
        with pytest.raises(ImportRefused, match="rows have 2 values, the network gives 1 logits"):
            npz(tmp_path, files=["a"], **{kind: [row]}).rows(["a"], 1)


@pytest.mark.parametrize(
    ("names", "width", "reason"),
    [
        (["a.png", "dog/a.png"], 3, "two golden images share one row"),
        (["a.png", "c.png"], 3, r"no row for 1 of 2 golden images, such as 'c\.png'"),
        (["a.png"], 10, "rows have 3 values, the network gives 10 logits"),
    ],
)
def test_images_without_their_own_row_are_refused(
    tmp_path: Path, names: list[str], width: int, reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        logits(tmp_path, LOGITS).rows(names, width)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"logits": [[1.0]]}, "holds logits; expected files, and either logits"),
        ({"files": ["a", "b"], "logits": [[1.0]]}, r"files has shape \(2,\), logits \(1, 1\)"),
        ({"files": ["a"], "logits": [[np.nan]]}, "a: has NaN .*check the weights"),
        ({"files": ["a"], "logits": [[1.0, -np.inf]]}, "a: has NaN .*-1e4, and compute it again"),
        ({"files": ["a"], "logits": [["x"]]}, "logits are not numbers; expected floats"),
        ({"files": ["a", "a"], "logits": [[1.0], [2.0]]}, "a name occurs twice in files"),
        ({"files": ["a"], "probabilities": [[2.0, 1.0]]}, "probabilities do not lie in"),
        ({"files": ["a"], "probabilities": [[1.0]], "logits": [[1.0]]}, "either logits or"),
        ({"files": ["a"], "logits": [[1.0, 2.0]], "labels": ["x"]}, r"labels has shape \(1,\)"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, arrays: dict[str, object], reason: str) -> None:
    with pytest.raises(ImportRefused, match=rf"reference\.npz: .*{reason}"):
        npz(tmp_path, **arrays)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"an array"])
def test_another_kind_of_file_is_refused_with_the_way_to_make_one(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "reference").write_bytes(data)
    if data == b"an array":
        with (tmp_path / "reference").open("wb") as file:
            np.save(file, np.ones(3))

    with pytest.raises(ImportRefused, match=r"not an npz file.*model_import\.py notebook"):
        read_reference(tmp_path / "reference")


def test_a_pickle_in_an_npz_does_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"

    with pytest.raises(ImportRefused, match="not an npz file of plain arrays"):
        npz(tmp_path, files=np.array([Payload(victim)], dtype=object), logits=[[1.0]])

    assert not victim.exists()
    np.load(tmp_path / "reference.npz", allow_pickle=True)["files"]
    assert victim.exists()


def test_labels_of_the_notebook_in_another_order_are_refused(tmp_path: Path) -> None:
    rows = list(LOGITS.values())
    reference = npz(tmp_path, files=list(LOGITS), logits=rows, labels=["cat", "dog", "arctic fox"])

    labels = reference.labels or ()
    assert check_label_order(("cat", "dog", "Arctic fox"), labels, "the file") == ""
    with pytest.raises(ImportRefused, match="class 1 is 'ARCTIC_FOX', in the file it is 'dog'"):
        check_label_order(("Cat", "ARCTIC_FOX", "Dog"), labels, "the file")
    assert check_label_order(("cat", "Hund", "Fuchs"), labels, "the file") == (
        "the file: 2 of its names are not among the labels (class 1 is 'dog', here 'Hund'), so "
        "their order is not proven"
    )
    # A single other name can only stand for the class that is left.
    assert check_label_order(("cat", "Hund", "arctic fox"), labels, "the file") == ""
    assert "has 3 names for 2 labels" in check_label_order(("cat", "dog"), labels, "the file")
    with pytest.raises(ImportRefused, match="class 0 is 'dog', in the file it is 'cat'"):
        check_label_order(("dog", "Katze", "Fuchs"), labels, "the file")


def test_only_labels_that_differ_by_case_alone_are_compared_with_it() -> None:
    labels = ("tiger shark", "a", "A")
    assert check_label_order(labels, ("Tiger_shark", "a", "A"), "the file") == ""
    with pytest.raises(ImportRefused, match="class 1 is 'a', in the file it is 'A'"):
        check_label_order(labels, ("Tiger_shark", "A", "a"), "the file")


def test_a_single_label_is_that_of_the_second_class() -> None:
    assert check_label_order(("seven",), ("no_seven", "seven"), "the file") == ""
    with pytest.raises(ImportRefused, match="class 0 is 'no_seven', in the file it is 'seven'"):
        check_label_order(("no_seven",), ("no_seven", "seven"), "the file")


@pytest.mark.parametrize("saved", [["no", "yes"], ["yes"]])
def test_labels_of_a_single_output_are_those_of_no_and_yes(
    tmp_path: Path, saved: list[str]
) -> None:
    reference = npz(tmp_path, files=["a"], logits=[[1.0]], labels=saved)

    assert check_label_order(("no", "yes"), reference.labels or (), "the file") == ""
    with pytest.raises(ImportRefused, match="in the file it is"):
        check_label_order(("yes", "no"), reference.labels or (), "the file")


def test_the_lines_for_a_notebook_save_what_it_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["notebook"]) == 0
    lines = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    for name, colour in {"cat/a.png": (255, 0, 0), "dog/b.jpg": (0, 0, 255)}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "labels.csv").write_text("file,label\n")

    def transform(image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image.resize((1, 1)))) / 255
        return pixels.permute(2, 0, 1)

    # Dropout shows whether the lines set the evaluation mode.
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9))
    exec(lines, {"model": model, "transform": transform, "classes": ["red", "green", "blue"]})

    reference = read_reference(tmp_path / "reference.npz")
    rows = reference.rows(["cat/a.png", "dog/b.jpg"], 3)
    assert rows == pytest.approx(np.array([[1, 0, 0], [0, 0, 1]]), abs=0.02)  # JPEG
    assert reference.labels == ("red", "green", "blue")
