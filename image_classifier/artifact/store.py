"""Where artifacts live: BentoML's model store, and model.lock, which names one of them."""

import difflib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException, NotFound
from pydantic import Field

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.evidence import Evidence
from image_classifier.artifact.format import (
    BENTOML_NAME,
    EVIDENCE_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    ArtifactError,
    Digest,
    FrozenModel,
    file_names,
    read_model,
)
from image_classifier.artifact.manifest import parse_manifest
from image_classifier.artifact.record import read_record

LOCK_NAME = "model.lock"


class ModelLock(FrozenModel):
    """Which artifact, to the byte.

    Attributes:
        tag: Name and version in BentoML's model store, never ":latest".
        manifest_sha256: Digest of its manifest, and through it of all files that decide an answer.
        evidence_sha256: Digest of its evidence, and through it of the reference logits.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    tag: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*:[0-9a-f]{16}$")]
    manifest_sha256: Digest
    evidence_sha256: Digest


def read_lock(path: Path) -> ModelLock:
    """Read a lock.

    Raises:
        ArtifactError: There is none, or it is not one.
    """
    if not path.exists():
        raise ArtifactError(
            f"{path}: not found; import a model first (make import, or python model_import.py)"
        )
    return read_model(ModelLock, path)[0]


def write_lock(path: Path, lock: ModelLock) -> None:
    """Replace the lock in one step: a reader sees the old one or the new one, whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(lock.to_json())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


STAGING_PREFIX = "image-classifier-import:"
"""Staging directories in the store. BentoML 1.4.40 lists such a folder as a version that is not
there, so as nothing; any other name would be a model to it, or an error."""
MAX_STAGING_AGE_S = 86_400
"""No import takes this long, so its process has ended without removing the directory."""
VERSION_DIGITS = 16
"""Hexadecimal digits of the manifest's digest that make the version: 64 bits."""


def tag_of(name: str, manifest_sha256: str) -> str:
    """Return name and version of an artifact: the version is the digest of its identity."""
    return f"{name}:{manifest_sha256[:VERSION_DIGITS]}"


def lock_of(artifact: Artifact) -> ModelLock:
    """Return the lock that names an artifact."""
    return ModelLock(
        tag=tag_of(artifact.manifest.name, artifact.digest),
        manifest_sha256=artifact.digest,
        evidence_sha256=artifact.evidence_digest,
    )


def locate(tag: str) -> Path:
    """Directory of an artifact in the store.

    Raises:
        ArtifactError: The store has no such model, or this is no tag.
    """
    try:
        return Path(bentoml.models.get(tag).path)
    except NotFound:
        close = difflib.get_close_matches(tag, tags(), n=1)
    except (BentoMLException, ValueError) as error:  # no tag, several that begin so, a damaged one
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"model store: {tag!r}: {reason}; expected NAME:VERSION as `model_import.py list` shows"
        ) from error
    raise ArtifactError(
        f"model store: {tag} is not there; import the model (make import, or python "
        "model_import.py) or set BENTOML_HOME to the store that has it"
        f"{f'; did you mean {close[0]}?' if close else ''}"
    )


def open_in_store(tag: str) -> Artifact:
    """Open an artifact of the store, all its files verified.

    Raises:
        ArtifactError: It is not there, is damaged, or its content is not what the tag says.
    """
    root = locate(tag)
    artifact = open_artifact(root)
    actual = lock_of(artifact).tag
    if actual != f"{root.parent.name}:{root.name}":
        raise ArtifactError(
            f"{root / MANIFEST_NAME}: its content is that of {actual}; it was changed after the "
            "import: import the model again"
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
            if not folder.parent.name.startswith(STAGING_PREFIX)
        )
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One artifact of the store, as a list shows it; None is not known.

    Attributes:
        problem: Why the rest cannot be read.
        network: Its name or file; "graph" where a finished graph was given.
        engine: The one that serves, of those that are certified.
        accuracy: Share of labelled golden samples that this engine reads right.
    """

    tag: str
    problem: str | None = None
    imported_at: datetime | None = None
    network: str | None = None
    classes: int | None = None
    engine: str | None = None
    engines: tuple[str, ...] = ()
    accuracy: float | None = None
    size_bytes: int | None = None


def entries() -> list[Entry]:
    """Return the artifacts of the store, the newest first; no digest is compared."""
    found = []
    for tag in tags():
        # A damaged artifact, or one of another release, must not hide the others.
        try:
            found.append(_entry(locate(tag), tag))
        except (ArtifactError, OSError) as error:
            found.append(Entry(tag=tag, problem=str(error)))
    never = datetime.fromtimestamp(0, UTC)
    return sorted(found, key=lambda entry: entry.imported_at or never, reverse=True)


def _entry(root: Path, tag: str) -> Entry:
    path = root / MANIFEST_NAME
    manifest, record = parse_manifest(path.read_bytes(), str(path)), read_record(root)
    evidence, _ = read_model(Evidence, root / EVIDENCE_NAME)
    engine = evidence.engine(record.plan.engine) if record else evidence.engines[0]
    return Entry(
        tag=tag,
        imported_at=record.imported_at if record else None,
        network=str(manifest.architecture or "graph"),
        classes=manifest.num_classes,
        engine=engine.name,
        engines=tuple(entry.name for entry in evidence.engines),
        accuracy=engine.certificate.accuracy,
        size_bytes=sum((root / name).stat().st_size for name in file_names(root)),
    )


@contextmanager
def staging_dir() -> Iterator[Path]:
    """Make a directory inside the store, so on its file system, to build an artifact in.

    It is removed afterwards, whatever happened, unless `add` moved it into the store. What a
    killed import left behind is removed by the first import a day later.
    """
    store = Path(BentoMLContainer.model_store_dir.get())
    store.mkdir(parents=True, exist_ok=True)
    for left_over in store.glob(f"{STAGING_PREFIX}*"):
        with suppress(FileNotFoundError):  # its own import removed it meanwhile
            if time.time() - left_over.stat().st_mtime > MAX_STAGING_AGE_S:
                shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=STAGING_PREFIX,
        suffix="x",  # BentoML lists no model whose name ends in "_", as a random one may
        dir=store,
        ignore_cleanup_errors=True,
    ) as folder:
        root = Path(folder, "artifact")
        root.mkdir()
        yield root


def add(root: Path, lock: ModelLock, newer: Iterable[str] = ()) -> bool:
    """Move a finished artifact into the store in one step.

    Args:
        root: Its directory, made by `staging_dir`.
        lock: What is in it.
        newer: Names of unpinned files that replace those of an artifact that is stored already.

    Returns:
        Whether the store had the same identity and evidence, undamaged, already. Then all but
        `newer` is left as it is. An artifact that is damaged, or has other evidence, is replaced.

    BentoML 1.4.40 copies into the store file by file, so that an interrupted import would
    leave half a model there (bentoml/_internal/models/model.py, `save`). Here BentoML
    writes its description into a store of one model, and a rename publishes the whole.
    """
    final = Path(BentoMLContainer.model_store_dir.get()) / lock.tag.replace(":", "/")
    _describe_to_bentoml(root, lock.tag)
    if _is_stored(final, lock):
        for name in newer:
            if (root / name).is_file():
                (root / name).replace(final / name)
        return True
    final.parent.mkdir(parents=True, exist_ok=True)
    replaced = root.with_name("replaced")
    if final.exists():  # damaged, or with the evidence of another import
        final.rename(replaced)
    try:
        root.rename(final)
    except OSError:
        if _is_stored(final, lock):
            return True  # another import of the same model was first, by a moment
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
    (final.parent / "latest").write_text(final.name)
    return False


def _is_stored(final: Path, lock: ModelLock) -> bool:
    if not final.exists():
        return False
    try:
        open_artifact(final, lock.manifest_sha256, lock.evidence_sha256)
    except ArtifactError:
        return False
    return True


def _describe_to_bentoml(root: Path, tag: str) -> None:
    """Write the description by which BentoML knows a model of its store; no digest covers it."""
    single = root.with_name("description")
    store = BentoMLContainer.model_store.get()
    with bentoml.models.create(tag, _model_store=type(store)(single)):
        pass
    (single / tag.replace(":", "/") / BENTOML_NAME).replace(root / BENTOML_NAME)
