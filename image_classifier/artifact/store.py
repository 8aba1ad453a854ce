"""The store of artifacts (BentoML's model store), and model.lock, which names one of them."""

import difflib
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
    replacing,
)
from image_classifier.artifact.manifest import Manifest
from image_classifier.artifact.record import read_record

LOCK_NAME = "model.lock"


class ModelLock(FrozenModel):
    """A reference to exactly one artifact.

    Attributes:
        tag: Name and version in BentoML's model store, never ":latest".
        manifest_sha256: Digest of the manifest, which has those of all files that decide an answer.
        evidence_sha256: Digest of the evidence, which has that of the reference logits.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    tag: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*:[0-9a-f]{16}$")]
    manifest_sha256: Digest
    evidence_sha256: Digest


def read_lock(path: Path) -> ModelLock:
    """Read a lock.

    Raises:
        ArtifactError: The file is missing or is not a lock.
    """
    if not path.exists():
        raise ArtifactError(
            f"{path}: not found; import a model first (make import, or python model_import.py)"
        )
    return read_model(ModelLock, path)[0]


def write_lock(path: Path, lock: ModelLock) -> None:
    """Replace the lock atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(lock.to_json())


STAGING_PREFIX = "image-classifier-import:"
"""Prefix of staging directories in the store. `bentoml models list` (1.4.40) skips folders of this
form; any other name would be listed as a model, or be an error."""
MAX_STAGING_AGE_S = 86_400
"""Age at which a staging directory is removed: no import takes this long."""


def tag_of(name: str, manifest_sha256: str) -> str:
    """Return the tag of an artifact; its version is the first 64 bits of the manifest's digest."""
    return f"{name}:{manifest_sha256[:16]}"


def lock_of(artifact: Artifact) -> ModelLock:
    """Return the lock that names an artifact."""
    return ModelLock(
        tag=tag_of(artifact.manifest.name, artifact.digest),
        manifest_sha256=artifact.digest,
        evidence_sha256=artifact.evidence_digest,
    )


def locate(tag: str) -> Path:
    """Return the directory of an artifact in the store.

    Raises:
        ArtifactError: The store has no such model, or this is not a tag.
    """
    try:
        return Path(bentoml.models.get(tag).path)
    except NotFound:
        close = difflib.get_close_matches(tag, [*tags(), *model_names()], n=1)
    except (BentoMLException, ValueError) as error:  # not a tag, an ambiguous one, a damaged model
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"model store: {tag!r}: {reason}; expected NAME:VERSION as `model_import.py list` shows"
        ) from error
    raise ArtifactError(
        f"model store: {tag} is not there (`model_import.py list` shows what is); import the model "
        "(make import, or python model_import.py) or set BENTOML_HOME to the store that has it"
        f"{f'; did you mean {close[0]}?' if close else ''}"
    )


def model_names() -> frozenset[str]:
    """Return the names of the artifacts in the store, without their versions."""
    return frozenset(tag.partition(":")[0] for tag in tags())


def open_in_store(tag: str) -> Artifact:
    """Open an artifact of the store and verify all its files.

    Raises:
        ArtifactError: The artifact is missing or damaged, or its content does not match the tag.
    """
    root = locate(tag)
    artifact = open_artifact(root)
    actual = lock_of(artifact).tag
    if actual != f"{root.parent.name}:{root.name}":
        raise ArtifactError(
            f"{root / MANIFEST_NAME}: found the manifest of {actual}; it was changed after the "
            "import: import the model again"
        )
    return artifact


def tags() -> tuple[str, ...]:
    """Return the tags of the artifacts in the store, sorted, without models of other programs."""
    root = Path(BentoMLContainer.model_store_dir.get())
    folders = [path.parent.relative_to(root) for path in root.glob(f"*/*/{MANIFEST_NAME}")]
    tags = [folder.as_posix().replace("/", ":") for folder in folders]
    return tuple(sorted(tag for tag in tags if not tag.startswith(STAGING_PREFIX)))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the list of artifacts; None is unknown.

    Attributes:
        problem: Why the artifact cannot be read.
        network: Name or file of the network; "graph" for a finished graph.
        engine: The certified engine that serves by default.
        engines: All certified engines.
        accuracy: Top-1 accuracy of `engine` on the labelled golden samples.
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
    """Return the artifacts of the store, newest first, without verifying digests."""
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
    manifest, _ = read_model(Manifest, root / MANIFEST_NAME)
    evidence, _ = read_model(Evidence, root / EVIDENCE_NAME)
    record = read_record(root)
    engine = evidence.engine(record.plan.engine)
    return Entry(
        tag=tag,
        imported_at=record.imported_at,
        network=str(manifest.architecture or "graph"),
        classes=manifest.num_classes,
        engine=engine.name,
        engines=tuple(entry.name for entry in evidence.engines),
        accuracy=engine.certificate.accuracy,
        size_bytes=sum((root / name).stat().st_size for name in file_names(root)),
    )


@contextmanager
def staging_dir() -> Iterator[Path]:
    """Make a directory on the file system of the store to build an artifact in.

    It is always removed afterwards, unless `add` moved it into the store. The directory of a
    killed import is removed by the first import a day later.
    """
    store = Path(BentoMLContainer.model_store_dir.get())
    store.mkdir(parents=True, exist_ok=True)
    for left_over in store.glob(f"{STAGING_PREFIX}*"):
        with suppress(FileNotFoundError):  # a running import has just removed its own
            if time.time() - left_over.stat().st_mtime > MAX_STAGING_AGE_S:
                shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{STAGING_PREFIX}x",  # a random name may begin or end with "_", where
        suffix="x",  # `bentoml models list` fails
        dir=store,
        ignore_cleanup_errors=True,
    ) as folder:
        root = Path(folder, "artifact")
        root.mkdir()
        yield root


def add(root: Path, lock: ModelLock, newer: Iterable[str] = ()) -> bool:
    """Move a finished artifact into the store atomically.

    Args:
        root: Directory of the artifact, made by `staging_dir`.
        lock: The lock of the artifact.
        newer: Names of unpinned files that replace those of an artifact already in the store.

    Returns:
        Whether the store already had the same identity and evidence, undamaged. Then only the
        files of `newer` are replaced. A damaged artifact, or one with other evidence, is replaced.

    BentoML 1.4.40 copies into the store file by file, so an interrupted import would leave half
    a model (bentoml/_internal/models/model.py, `save`). Here BentoML writes its description
    into a temporary store, and a rename publishes the whole directory.
    """
    final = Path(BentoMLContainer.model_store_dir.get()) / lock.tag.replace(":", "/")
    _describe_to_bentoml(root, lock.tag)
    known = _is_stored(final, lock)
    if known:
        for name in newer:
            if (root / name).is_file():
                (root / name).replace(final / name)
    else:
        known = _publish(root, final, lock)
    # A name without a version means the artifact that was imported last.
    (final.parent / "latest").write_text(final.name)
    return known


def _publish(root: Path, final: Path, lock: ModelLock) -> bool:
    """Move an artifact to its place; return whether a concurrent import of it was first."""
    final.parent.mkdir(parents=True, exist_ok=True)
    replaced = root.with_name("replaced")
    if final.exists():  # damaged, or with other evidence
        final.rename(replaced)
    try:
        root.rename(final)
    except OSError:
        if _is_stored(final, lock):
            return True
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
    return False


def _is_stored(final: Path, lock: ModelLock) -> bool:
    try:
        open_artifact(final, lock.manifest_sha256, lock.evidence_sha256)
    except ArtifactError:
        return False
    return True


def _describe_to_bentoml(root: Path, tag: str) -> None:
    """Write model.yaml, BentoML's own description of a model; no digest covers it."""
    single = root.with_name("description")
    store = BentoMLContainer.model_store.get()
    with bentoml.models.create(tag, _model_store=type(store)(single)):
        pass
    (single / tag.replace(":", "/") / BENTOML_NAME).replace(root / BENTOML_NAME)
