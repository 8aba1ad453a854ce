"""The model store: content-addressed, whole or not at all, clean after a kill."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bentoml
import pytest

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.store import DRAFT_PREFIX, ModelLock, add, draft, locate, tags
from tests.artifact.builder import contents, manifest_of, parsed, sha256, write_artifact
from tests.imports import ROOT


def imported(files: dict[str, bytes] | None = None) -> tuple[ModelLock, bool]:
    """Add the small artifact, as an import does."""
    with draft() as root:
        write_artifact(root, files)
        return add(root, parsed(manifest_of(contents() if files is None else files)))


def everything_in(home: Path) -> dict[str, str]:
    return {
        path.relative_to(home).as_posix(): sha256(path.read_bytes())
        for path in sorted(home.rglob("*"))
        if path.is_file()
    }


def test_the_version_is_the_digest_of_the_content(store: Path) -> None:
    lock, known = imported()

    manifest = store / "models" / lock.tag.replace(":", "/") / "manifest.json"
    assert not known
    assert lock.tag == f"insects:{sha256(manifest.read_bytes())[:16]}"
    assert lock.manifest_sha256 == sha256(manifest.read_bytes())


def test_adding_the_same_again_gives_the_same_tag_and_changes_nothing(store: Path) -> None:
    first, _ = imported()
    before = everything_in(store)

    second, known = imported()

    assert known
    assert second == first
    assert everything_in(store) == before


def test_the_later_of_two_imports_at_one_moment_finds_the_same_artifact(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def another_was_first(root: Path, final: Path) -> Path:
        shutil.copytree(root, final)
        return rename(root, final)

    monkeypatch.setattr(Path, "rename", another_was_first)

    lock, known = imported()

    assert known
    assert open_artifact(locate(lock.tag), lock.manifest_sha256).labels() == ("ant", "bee")


def test_other_content_is_another_version_beside_the_first(store: Path) -> None:
    first, _ = imported()
    second, known = imported({**contents(), "labels.json": b'["bee", "ant"]'})

    assert not known
    assert first.tag != second.tag
    assert open_artifact(locate(first.tag), first.manifest_sha256).labels() == ("ant", "bee")
    assert open_artifact(locate(second.tag), second.manifest_sha256).labels() == ("bee", "ant")


def test_bentoml_knows_the_model_and_its_labels(store: Path) -> None:
    lock, _ = imported()

    model = bentoml.models.get(lock.tag)

    assert Path(model.path) == locate(lock.tag)
    assert model.info.labels == {"classes": "2"}
    assert str(bentoml.models.get("insects").tag) == lock.tag


def test_a_damaged_entry_is_replaced_by_the_sound_one(store: Path) -> None:
    lock, _ = imported()
    damaged = locate(lock.tag) / "labels.json"
    damaged.write_bytes(b'["bee", "ant"]')

    again, known = imported()

    assert (again, known) == (lock, False)
    assert open_artifact(locate(lock.tag), lock.manifest_sha256).labels() == ("ant", "bee")


def test_a_model_that_is_not_there_tells_what_to_do(store: Path) -> None:
    with pytest.raises(ArtifactError, match="insects:0123456789abcdef is not there; import"):
        locate("insects:0123456789abcdef")


@pytest.mark.parametrize("tag", ["A B", "digits:zz:y", "digits:", "", "insects:0"])
def test_what_is_no_tag_is_one_line(store: Path, tag: str) -> None:
    for version in ("00", "01"):
        (store / "models" / "insects" / version).mkdir(parents=True)

    with pytest.raises(ArtifactError, match="expected NAME:VERSION") as caught:
        locate(tag)

    assert str(caught.value).isprintable()


def test_a_draft_is_gone_after_a_failure(store: Path) -> None:
    with pytest.raises(KeyError), draft() as root:
        (root / "half").write_text("written")
        raise KeyError

    assert list(store.rglob("*")) == [store / "models"]


def test_the_files_of_an_artifact_can_be_read_by_another_user(store: Path) -> None:
    lock, _ = imported()

    for path in [locate(lock.tag), *locate(lock.tag).rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044, path


KILLED_IMPORT = """
import os, signal
from pathlib import Path
from artifact.store import draft

with draft() as root:
    (root / "half").write_text("written")
    (root.with_name("description") / "insects").mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def drafts(store: Path) -> list[Path]:
    return list((store / "models").glob(f"{DRAFT_PREFIX}*"))


def test_what_a_killed_import_left_is_removed_by_the_next(store: Path) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(store)}
    killed = subprocess.run([sys.executable, "-c", KILLED_IMPORT], cwd=ROOT, env=environment)
    left = drafts(store)

    imported()

    assert killed.returncode == -9
    assert len(left) == 1
    assert drafts(store) == []


def test_the_draft_of_an_import_that_runs_is_left_alone(store: Path) -> None:
    with draft() as running:
        (running / "half").write_text("written")

        imported()

        assert (running / "half").read_text() == "written"


def test_a_draft_without_a_lock_is_not_ours_to_remove(store: Path) -> None:
    # An import is there for a moment between making the folder and holding its lock.
    (store / "models" / f"{DRAFT_PREFIX}starting").mkdir()

    assert not imported()[1]
    assert [path.name for path in drafts(store)] == [f"{DRAFT_PREFIX}starting"]


def test_a_draft_is_no_model_to_bentoml_or_to_us(store: Path) -> None:
    lock, _ = imported()

    with draft() as running:
        write_artifact(running)
        (running.with_name("description") / "insects").mkdir(parents=True)

        assert [str(model.tag) for model in bentoml.models.list()] == [lock.tag]
        assert tags() == (lock.tag,)


def test_a_draft_lies_on_the_file_system_of_a_store_that_is_elsewhere(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (store / "models").rmdir()
    (store / "models").symlink_to(tmp_path / "disk")

    with draft() as root:
        assert root.resolve().is_relative_to(tmp_path / "disk")
    lock, _ = imported()

    assert (tmp_path / "disk" / lock.tag.replace(":", "/") / "manifest.json").is_file()
