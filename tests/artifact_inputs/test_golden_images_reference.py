"""Reference numbers from a researcher's notebook: read, checked, matched by file name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from image_classifier.artifact.format import ArtifactError
from importer.golden_images import Reference, read_reference
from tests.shared_data import SHARED, needs_shared_data

LOGITS = {"a.png": [1.5, -2.0, 0.25], "b.png": [0.0, 3.0, -7.5]}
PROBABILITIES = {"a.png": [0.5, 0.25, 0.25], "b.png": [0.0, 1.0, 0.0]}


def json_reference(tmp_path: Path, value: object) -> Reference:
    (tmp_path / "reference.json").write_text(json.dumps(value))
    return read_reference(tmp_path / "reference.json")


def npz_reference(tmp_path: Path, **arrays: object) -> Reference:
    np.savez(tmp_path / "reference.npz", **arrays)
    return read_reference(tmp_path / "reference.npz")


def test_a_bare_object_of_logits_is_read(tmp_path: Path) -> None:
    reference = json_reference(tmp_path, LOGITS)

    assert reference.kind == "logits"
    assert reference.rows(["b.png", "a.png"], 3).tolist() == [[0.0, 3.0, -7.5], [1.5, -2.0, 0.25]]
    assert reference.rows(["a.png"], 3).dtype == np.float64


def test_rows_that_sum_to_one_are_probabilities(tmp_path: Path) -> None:
    assert json_reference(tmp_path, PROBABILITIES).kind == "probabilities"


def test_one_row_that_does_not_sum_to_one_makes_them_logits(tmp_path: Path) -> None:
    assert json_reference(tmp_path, {**PROBABILITIES, "c.png": [0.5, 0.5, 0.5]}).kind == "logits"
    assert json_reference(tmp_path, {"c.png": [2.0, -0.5, -0.5]}).kind == "logits"


def test_probabilities_of_half_precision_are_probabilities(tmp_path: Path) -> None:
    row = np.exp(np.linspace(0, 5, 1000))
    row = (row / row.sum()).astype(np.float16)
    assert abs(row.astype(np.float64).sum() - 1) > 1e-6

    assert npz_reference(tmp_path, files=["a"], probabilities=[row]).kind == "probabilities"


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_key_names_the_kind(tmp_path: Path, kind: str) -> None:
    reference = json_reference(tmp_path, {kind: PROBABILITIES})

    assert reference.kind == kind
    assert reference.rows(["a.png"], 3).tolist() == [[0.5, 0.25, 0.25]]


def test_what_is_called_probabilities_must_be_some(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="called probabilities do not lie in"):
        json_reference(tmp_path, {"probabilities": LOGITS})


def test_npz_is_read(tmp_path: Path) -> None:
    values = np.array([*LOGITS.values()], dtype=np.float32)

    reference = npz_reference(tmp_path, files=np.array([*LOGITS]), logits=values)

    assert reference.kind == "logits"
    assert reference.rows(["b.png"], 3).tolist() == [[0.0, 3.0, -7.5]]


@needs_shared_data
def test_the_delivered_goldens_are_read() -> None:
    path = SHARED / "golden" / "squeezenet1_1_imagenet.nips17_dev.npz"
    details = json.loads(path.with_suffix(".json").read_bytes())["images"]

    reference = read_reference(path)

    for name, entry in details.items():
        row = reference.rows([name], 1000)[0]
        assert row[entry["top_ids"]].tolist() == entry["top_logits"]


@needs_shared_data
def test_a_file_of_the_best_classes_only_is_no_reference() -> None:
    with pytest.raises(ArtifactError, match="not rows of all classes; give the npz"):
        read_reference(SHARED / "golden" / "squeezenet1_1_imagenet.nips17_dev.json")


def test_a_name_is_found_without_its_folder(tmp_path: Path) -> None:
    reference = json_reference(tmp_path, LOGITS)

    assert reference.rows(["cat/a.png", "dog/b.png"], 3)[0].tolist() == [1.5, -2.0, 0.25]


def test_two_images_must_not_share_a_row(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="two golden images share one row"):
        json_reference(tmp_path, LOGITS).rows(["cat/a.png", "dog/a.png"], 3)
    with pytest.raises(ArtifactError, match="two golden images share one row"):
        json_reference(tmp_path, LOGITS).rows(["a.png", "dog/a.png"], 3)


def test_a_whole_name_wins_over_its_last_part(tmp_path: Path) -> None:
    reference = json_reference(tmp_path, {"cat/a.png": [1, 2], "dog/a.png": [3, 4]})

    assert reference.rows(["dog/a.png", "cat/a.png"], 2).tolist() == [[3, 4], [1, 2]]


def test_an_image_without_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"no row for 1 of 2 golden images, such as 'c\.png'; it has 2 rows"
    ):
        json_reference(tmp_path, LOGITS).rows(["a.png", "c.png"], 3)


def test_rows_of_another_width_than_the_logits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="rows have 3 values, the network gives 10 logits"):
        json_reference(tmp_path, LOGITS).rows(["a.png"], 10)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "a list; expected an object"),
        ({}, "holds no row"),
        ({"logits": [1, 2]}, "logits is no object"),
        ({"logits": LOGITS, "probabilities": PROBABILITIES}, "holds logits and probabilities"),
        ({"a": [1, 2], "b": [1, 2, 3]}, r"rows have \[2, 3\] values"),
        ({"a": "text"}, "a: not a row of numbers"),
        ({"a": [1, None, "x"]}, "a: not a row of numbers"),
        ({"a": [[1, 2]]}, r"a: shape is \(1, 2\), expected \(classes,\)"),
        ({"a": 3}, r"a: shape is \(\)"),
        ({"a": []}, r"a: shape is \(0,\)"),
        ({"a": [1.0, float("nan")]}, "a: has NaN"),
        ({"a": [1.0, float("inf")]}, "a: has NaN or infinite"),
    ],
)
def test_json_of_another_form_is_refused(tmp_path: Path, value: object, reason: str) -> None:
    with pytest.raises(ArtifactError, match=rf"reference\.json: .*{reason}"):
        json_reference(tmp_path, value)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reference.json").write_text('{"a": [1], "a": [2]}')

    with pytest.raises(ArtifactError, match="a name stands there twice"):
        read_reference(tmp_path / "reference.json")
    with pytest.raises(ArtifactError, match="a name stands in files twice"):
        npz_reference(tmp_path, files=["a", "a"], logits=[[1.0], [2.0]])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"logits": [[1.0]]}, "holds logits; expected files"),
        ({"files": ["a"]}, "holds files; expected files, and logits"),
        ({"files": ["a"], "logits": [1.0]}, r"files has shape \(1,\), logits \(1,\)"),
        ({"files": ["a", "b"], "logits": [[1.0]]}, r"files has shape \(2,\), logits \(1, 1\)"),
        ({"files": ["a"], "logits": [[np.nan]]}, "a: has NaN"),
    ],
)
def test_npz_of_another_form_is_refused(
    tmp_path: Path, arrays: dict[str, object], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"reference\.npz: .*{reason}"):
        npz_reference(tmp_path, **arrays)


class Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


def test_a_pickle_in_an_npz_does_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    payload = np.array([Payload(victim)], dtype=object)

    with pytest.raises(ArtifactError, match="not an npz file of plain arrays"):
        npz_reference(tmp_path, files=payload, logits=[[1.0]])

    assert not victim.exists()
    pickle.loads(pickle.dumps(payload))
    assert victim.exists()


@pytest.mark.parametrize("data", [b"", b"\x00\x01", b"PK\x03\x04 cut", b"a,b\n1,2\n"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "reference").write_bytes(data)

    with pytest.raises(ArtifactError, match="reference: n"):
        read_reference(tmp_path / "reference")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        read_reference(tmp_path / "absent")
