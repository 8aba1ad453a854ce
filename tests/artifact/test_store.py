"""The model store: content-addressed, whole or not at all, clean after a kill."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bentoml
import pytest

from artifact.errors import ArtifactError
from artifact.lock import ModelLock
from artifact.opened import open_artifact
from artifact.store import DRAFT_PREFIX, add, draft, locate
from tests.artifact.builder import contents, manifest_of, parsed, sha256, write_artifact


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


def test_a_draft_is_gone_after_a_failure(store: Path) -> None:
    with pytest.raises(KeyError), draft() as root:
        (root / "half").write_text("written")
        raise KeyError

    assert everything_in(store) == {}
    assert [path.name for path in store.iterdir()] == ["models"]


def test_the_files_of_an_artifact_can_be_read_by_another_user(store: Path) -> None:
    lock, _ = imported()

    for path in [locate(lock.tag), *locate(lock.tag).rglob("*")]:
        assert path.stat().st_mode & 0o044 == 0o044, path


def ended_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("suffix", ["", ".description"])
@pytest.mark.parametrize("own", [True, False], ids=["own-id", "ended-process"])
def test_what_a_killed_import_left_is_removed_by_the_next(
    store: Path, own: bool, suffix: str
) -> None:
    # In a container each import may get the same process id, so a left-over may bear our own.
    process_id = os.getpid() if own else ended_process()
    left = store / f"{DRAFT_PREFIX}{process_id}{suffix}"
    left.mkdir()
    (left / "half").write_text("written")

    imported()

    assert not left.exists()
    assert not list(store.glob(f"{DRAFT_PREFIX}*"))


def test_the_draft_of_an_import_that_runs_is_left_alone(store: Path) -> None:
    running = store / f"{DRAFT_PREFIX}{os.getppid()}"
    running.mkdir()

    imported()

    assert running.is_dir()


def test_what_is_named_like_a_draft_but_is_none_harms_nobody(store: Path) -> None:
    (store / f"{DRAFT_PREFIX}of-my-own").mkdir()

    assert not imported()[1]
