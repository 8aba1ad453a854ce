"""BentoML's model store: where artifacts live."""

import fcntl
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException, NotFound

from artifact.digests import sha256_bytes
from artifact.errors import ArtifactError
from artifact.lock import ModelLock
from artifact.manifest import MANIFEST_NAME, Manifest
from artifact.opened import Artifact, open_artifact

DRAFT_PREFIX = "image-classifier-import:"
"""Folders of drafts in the store. BentoML 1.4.40 lists such a folder as a version that is not
there, so as nothing; any other name would be a model to it, or an error."""
DRAFT_LOCK = "lock"
VERSION_DIGITS = 16
"""Hexadecimal digits of the manifest's digest that make the version: 64 bits."""

CREATION_TIME = re.compile(r"(?m)^creation_time: .*$")
NO_CREATION_TIME = "creation_time: '1980-01-01T00:00:00+00:00'"
"""In place of the clock's: the same model is the same bytes. record.json has the true time."""


def tag_of(manifest: Manifest) -> str:
    """Name and version of an artifact: the version is the digest of its content."""
    return f"{manifest.name}:{sha256_bytes(manifest.to_json())[:VERSION_DIGITS]}"


def locate(tag: str) -> Path:
    """Directory of an artifact in the store.

    Raises:
        ArtifactError: The store has no such model, or this is no tag.
    """
    try:
        return Path(bentoml.models.get(tag).path)
    except NotFound as error:
        raise ArtifactError(
            f"model store: {tag} is not there; import the model (make import, or "
            "python model_import.py) or set BENTOML_HOME to the store that has it"
        ) from error
    except (BentoMLException, ValueError) as error:  # no tag, several that begin so, a damaged one
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"model store: {tag!r}: {reason}; expected NAME:VERSION as `model_import.py list` shows"
        ) from error


def open_in_store(tag: str) -> Artifact:
    """Open an artifact of the store, all its files verified.

    Raises:
        ArtifactError: It is not there, is damaged, or its content is not what the tag says.
    """
    root = locate(tag)
    artifact = open_artifact(root)
    if tag_of(artifact.manifest) != f"{root.parent.name}:{root.name}":
        raise ArtifactError(
            f"{root / MANIFEST_NAME}: its content is that of {tag_of(artifact.manifest)}; it was "
            "changed after the import: import the model again"
        )
    return artifact


def tags() -> tuple[str, ...]:
    """Tags of the artifacts in the store, sorted; models of other programs are left out."""
    root = Path(BentoMLContainer.model_store_dir.get())
    folders = [path.parent for path in root.glob(f"*/*/{MANIFEST_NAME}")]
    return tuple(
        sorted(
            f"{folder.parent.name}:{folder.name}"
            for folder in folders
            if not folder.parent.name.startswith(DRAFT_PREFIX)
        )
    )


@contextmanager
def draft() -> Iterator[Path]:
    """A fresh directory inside the store, so on its file system, to build an artifact in.

    It is gone afterwards, whatever happened, unless `add` moved it into the store. What a
    killed import left behind is removed by the next one.
    """
    store = Path(BentoMLContainer.model_store_dir.get())
    for left_over in store.glob(f"{DRAFT_PREFIX}*/{DRAFT_LOCK}"):
        _remove_unlocked(left_over)
    folder = store / f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
    root = folder / "artifact"
    root.mkdir(parents=True)
    try:
        # The lock gets its name after it is held: no other import sees it free.
        with (folder / "new").open("wb") as lock:
            _hold(lock)
            (folder / "new").replace(folder / DRAFT_LOCK)
            yield root
    finally:
        _remove(folder)


def _remove_unlocked(lock: Path) -> None:
    try:
        with lock.open("rb+") as file:
            if _hold(file):
                _remove(lock.parent)
    except OSError:
        pass  # its import has ended meanwhile, or it is another user's


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / "artifact", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # the lock last: killed before, it is found again


def _hold(lock: IO[bytes]) -> bool:
    """Whether nobody else held it: a process of another container may, so no process id can tell.

    A file system without locks answers as if somebody did: then nothing is removed.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def add(root: Path, manifest: Manifest) -> tuple[ModelLock, bool]:
    """Move a finished draft into the store in one step.

    Args:
        root: Directory with all files, the manifest among them; made by `draft`.
        manifest: What is in it.

    Returns:
        What to lock, and whether the store had the same artifact, undamaged, already.

    BentoML 1.4.40 copies into the store file by file, so that an interrupted import would
    leave half a model there (bentoml/_internal/models/model.py, `save`). Here BentoML
    writes its description into a store of one model, and a rename publishes the whole.
    """
    tag = tag_of(manifest)
    lock = ModelLock(tag=tag, manifest_sha256=sha256_bytes((root / MANIFEST_NAME).read_bytes()))
    store = BentoMLContainer.model_store.get()
    final = Path(BentoMLContainer.model_store_dir.get()) / tag.replace(":", "/")
    if final.exists():
        try:
            open_artifact(final, lock.manifest_sha256)
        except ArtifactError:
            shutil.rmtree(final)  # damaged: replaced by the sound one
        else:
            return lock, True
    single = root.with_name("description")
    try:
        labels = {"classes": str(manifest.num_classes)}
        with bentoml.models.create(tag, labels=labels, _model_store=type(store)(single)):
            pass
        description = (single / tag.replace(":", "/") / "model.yaml").read_text()
        (root / "model.yaml").write_text(CREATION_TIME.sub(NO_CREATION_TIME, description))
    finally:
        shutil.rmtree(single, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        root.rename(final)
    except OSError:
        if not final.exists():
            raise
        # Another import of the same model was first, by a moment.
        open_artifact(final, lock.manifest_sha256)
        return lock, True
    (final.parent / "latest").write_text(final.name)
    return lock, False
