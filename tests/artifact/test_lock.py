"""model.lock: strict, replaced in one step."""

import json
from pathlib import Path

import pytest

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.store import ModelLock, read_lock, write_lock

LOCK = ModelLock(tag="digits:0123456789abcdef", manifest_sha256="a" * 64)


def test_a_lock_comes_back_as_it_was_written_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_lock(tmp_path / "model.lock", LOCK)

    assert read_lock(tmp_path / "model.lock") == LOCK
    assert [path.name for path in tmp_path.iterdir()] == ["model.lock"]


def test_a_lock_is_sorted_json_for_people_and_differences(tmp_path: Path) -> None:
    write_lock(tmp_path / "model.lock", LOCK)

    assert (tmp_path / "model.lock").read_text() == (
        '{\n  "manifest_sha256": "' + "a" * 64 + '",\n'
        '  "schema_version": 1,\n  "tag": "digits:0123456789abcdef"\n}\n'
    )


def test_a_lock_that_is_read_while_it_is_replaced_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    write_lock(path, LOCK)
    with path.open() as reader:
        write_lock(path, LOCK.model_copy(update={"manifest_sha256": "b" * 64}))

        assert json.loads(reader.read())["manifest_sha256"] == "a" * 64
    assert read_lock(path).manifest_sha256 == "b" * 64


def test_a_missing_lock_tells_to_import_first(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.lock: not found; import a model first"):
        read_lock(tmp_path / "model.lock")


def test_a_lock_that_cannot_be_read_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Is a directory; expected a readable file"):
        read_lock(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"tag": "digits:latest"},
        {"tag": "digits"},
        {"tag": "Digits:0123456789abcdef"},
        {"tag": "../digits:0123456789abcdef"},
        {"manifest_sha256": "a" * 63},
        {"schema_version": 2},
        {"digest": "what is this"},
    ],
    ids=str,
)
def test_what_is_no_lock_is_refused_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "model.lock"
    path.write_text(json.dumps({**LOCK.model_dump(), **change}))

    with pytest.raises(ArtifactError, match=r"model\.lock: .*; import the model again") as refused:
        read_lock(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_lock_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.lock").write_bytes(data)

    with pytest.raises(ArtifactError, match=r"model\.lock: .*; import the model again"):
        read_lock(tmp_path / "model.lock")
