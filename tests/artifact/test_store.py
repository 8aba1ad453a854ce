"""The model store and model.lock: content-addressed, atomic, clean after a killed import."""

import json
import os
import shutil
import time
from pathlib import Path

import bentoml
import numpy as np
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.store import (
    STAGING_PREFIX,
    ModelLock,
    add,
    locate,
    lock_of,
    read_lock,
    staging_dir,
    tags,
    write_lock,
)
from tests.artifact.builder import contents, npy, sha256, write_artifact


def imported(files: dict[str, bytes] | None = None) -> tuple[ModelLock, bool]:
    """Add the small artifact as an import does; return its lock and the result of `add`."""
    with staging_dir() as root:
        write_artifact(root, files)
        lock = lock_of(open_artifact(root))
        return lock, add(root, lock)


def test_the_version_is_the_digest_of_the_manifest_and_a_second_import_changes_nothing(
    store: Path,
) -> None:
    def contents_of_store() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}

    lock, known = imported()
    before = contents_of_store()
    digest = sha256((locate(lock.tag) / "manifest.json").read_bytes())
    again = imported()

    assert (lock.tag, lock.manifest_sha256) == (f"insects:{digest[:16]}", digest)
    assert (known, again) == (False, (lock, True))
    assert contents_of_store() == before
    for path in [locate(lock.tag), *locate(lock.tag).rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044, path  # readable by other users


def test_a_name_means_the_artifact_that_was_imported_last_even_if_it_was_known(
    store: Path,
) -> None:
    first, _ = imported()
    other = {**contents(), "labels.json": b'["ant", "wasp"]\n'}
    second, _ = imported(other)

    assert first.tag != second.tag
    assert locate("insects").name == second.tag.partition(":")[2]
    assert imported() == (first, True)
    assert locate("insects").name == first.tag.partition(":")[2]


def test_the_second_of_two_concurrent_imports_finds_the_artifact_of_the_first(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_after_the_other_import(root: Path, final: Path) -> Path:
        shutil.copytree(root, final)
        return rename(root, final)

    monkeypatch.setattr(Path, "rename", rename_after_the_other_import)

    lock, known = imported()

    assert known
    assert open_artifact(locate(lock.tag), lock.manifest_sha256).labels() == ("ant", "bee")


def test_an_import_with_other_evidence_replaces_the_artifact_of_the_same_tag(
    store: Path,
) -> None:
    first, _ = imported()
    logits = npy(np.array([[1, 2], [3, 5]], np.float32))
    second, known = imported({**contents(), "golden/logits.npy": logits})

    assert not known
    assert (second.tag, second.manifest_sha256) == (first.tag, first.manifest_sha256)
    artifact = open_artifact(locate(second.tag), second.manifest_sha256, second.evidence_sha256)
    assert artifact.reference()[0].tolist() == [[1, 2], [3, 5]]
    assert staging_dirs(store) == []
    with pytest.raises(ArtifactError, match="a later import of the same model replaced it"):
        open_artifact(locate(first.tag), first.manifest_sha256, first.evidence_sha256)


@pytest.mark.parametrize("tag", ["A B", "digits:", "insects:0"])
def test_malformed_and_ambiguous_tags_are_refused_in_one_line(store: Path, tag: str) -> None:
    for version in ("00", "01"):
        (store / "models" / "insects" / version).mkdir(parents=True)

    with pytest.raises(ArtifactError, match="expected NAME:VERSION") as caught:
        locate(tag)

    assert str(caught.value).isprintable()


def test_a_failed_replacement_leaves_the_old_artifact(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, _ = imported()
    (locate(lock.tag) / "labels.json").write_bytes(b"damaged")
    rename = Path.rename

    def fail_to_rename(path: Path, target: Path) -> Path:
        if path.name == "artifact":
            raise OSError("read-only")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_to_rename)

    with pytest.raises(OSError, match="read-only"):
        imported()

    assert (locate(lock.tag) / "labels.json").read_bytes() == b"damaged"


def staging_dirs(store: Path) -> list[Path]:
    return list((store / "models").glob(f"{STAGING_PREFIX}*"))


def test_directories_of_killed_imports_are_removed_after_a_day_but_not_of_running_ones(
    store: Path,
) -> None:
    killed = store / "models" / f"{STAGING_PREFIX}killed"
    killed.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86_400
    os.utime(killed, (two_days_ago, two_days_ago))

    with staging_dir() as running:
        imported()

        assert staging_dirs(store) == [running.parent]
    assert staging_dirs(store) == []


def test_a_staging_directory_is_not_listed_as_a_model(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, _ = imported()
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: iter(["_random_"]))

    with staging_dir() as running:
        write_artifact(running)
        (running.with_name("description") / "insects").mkdir(parents=True)

        assert [str(model.tag) for model in bentoml.models.list()] == [lock.tag]
        assert tags() == (lock.tag,)


def test_the_staging_directory_is_on_the_file_system_of_a_linked_store(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (store / "models").rmdir()
    (store / "models").symlink_to(tmp_path / "disk")

    with staging_dir() as root:
        assert root.resolve().is_relative_to(tmp_path / "disk")
    lock, _ = imported()

    assert (tmp_path / "disk" / lock.tag.replace(":", "/") / "manifest.json").is_file()


LOCK = ModelLock(tag="digits:0123456789abcdef", manifest_sha256="a" * 64, evidence_sha256="b" * 64)


def test_a_lock_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    write_lock(path, LOCK)
    with path.open() as reader:
        write_lock(path, LOCK.model_copy(update={"manifest_sha256": "c" * 64}))

        assert json.loads(reader.read())["manifest_sha256"] == "a" * 64
    assert read_lock(path) == LOCK.model_copy(update={"manifest_sha256": "c" * 64})
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_or_unreadable_lock_is_reported_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.lock: not found; import a model first"):
        read_lock(tmp_path / "model.lock")
    with pytest.raises(ArtifactError, match="is not a file; import the model again"):
        read_lock(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        *(
            json.dumps({**LOCK.model_dump(), **change}).encode()
            for change in (
                {"tag": "digits:latest"},
                {"tag": "../digits:0123456789abcdef"},
                {"manifest_sha256": "a" * 63},
                {"schema_version": 1},
            )
        ),
    ],
)
def test_a_damaged_lock_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.lock"
    path.write_bytes(data)

    with pytest.raises(ArtifactError, match=r"model\.lock: .*; import the model again") as refused:
        read_lock(path)
    assert "\n" not in str(refused.value)
