"""The manifest of a bento: digest, model and files, and the check that they are all true."""

import json
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import MANIFEST_NAME as MODEL_MANIFEST_NAME
from image_classifier.artifact.format import (
    Digest,
    FrozenModel,
    describe_differences,
    file_names,
    sha256_bytes,
    sha256_tree,
)
from image_classifier.artifact.store import LOCK_NAME, ModelLock, read_lock
from tools.release import ReleaseError
from tools.release.content import MANIFEST_NAME, MODELS, content_digest, read_description

VERSION_DIGITS = 16


class BentoManifest(FrozenModel):
    """manifest.json of a bento built by `make bento`.

    Attributes:
        digest: Digest of the content; see `content_digest`.
        version: Its first 16 digits, which are BentoML's version of the bento.
        source_commit: Git commit of the packed files; ends in "-dirty" if a packed file differs
            from it, None outside a git checkout. Not part of the digest.
        model: The bento's model.lock.
        files: sha256 of every file except this one and the model's.
    """

    schema_version: Literal[1] = 1
    name: str
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    digest: Digest
    model: ModelLock
    source_commit: str | None
    files: dict[str, Digest]

    def to_json(self) -> bytes:
        """Return the canonical bytes."""
        return (json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n").encode()


def read_manifest(root: Path) -> BentoManifest:
    """Read the manifest of a bento.

    Raises:
        ReleaseError: The manifest is missing or malformed.
    """
    path = root / MANIFEST_NAME
    try:
        return BentoManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ReleaseError(
            f"{path}: {error.strerror}; expected a bento built by `make bento`; a plain "
            "`bentoml build` writes no manifest"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReleaseError(f"{path}: {place}: {first['msg']}; build the bento again") from error


def verify_bento(root: Path) -> BentoManifest:
    """Compare every file of a bento with its manifest, and its model, if one is inside.

    Raises:
        ReleaseError: A file is missing, extra or changed, or the manifest contradicts itself.
        ArtifactError: The model inside is damaged.
    """
    manifest = read_manifest(root)
    names = {name for name in file_names(root) if not name.startswith(MODELS)} - {MANIFEST_NAME}
    for name in sorted(names):
        if not S_ISREG((root / name).lstat().st_mode):
            raise ReleaseError(f"{root / name}: not a plain file; build the bento again")
    if differences := describe_differences(manifest.files, sha256_tree(root, names)):
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise ReleaseError(f"{root}: {differences[0]}{more}; build the bento again")
    _verify_identity(root, manifest)
    if (root / MODELS).is_dir():
        _verify_model(root / MODELS / manifest.model.tag.replace(":", "/"), manifest)
    return manifest


def _verify_identity(root: Path, manifest: BentoManifest) -> None:
    description = read_description(root)
    for field, actual, expected in (
        ("digest", manifest.digest, content_digest(root)),
        ("version", manifest.version, manifest.digest[:VERSION_DIGITS]),
        ("version in bento.yaml", description["version"], manifest.version),
        ("name in bento.yaml", description["name"], manifest.name),
        ("model", manifest.model, read_lock(root / "src" / LOCK_NAME)),
    ):
        if actual != expected:
            raise ReleaseError(
                f"{root / MANIFEST_NAME}: {field} is {actual}, expected {expected}; "
                "build the bento again"
            )


def _verify_model(folder: Path, manifest: BentoManifest) -> None:
    path = folder / MODEL_MANIFEST_NAME
    if not path.is_file():
        raise ReleaseError(f"{path}: not found; containerize the bento again")
    if sha256_bytes(path.read_bytes()) != manifest.model.manifest_sha256:
        raise ReleaseError(f"{path}: not the model of {MANIFEST_NAME}; containerize again")
    open_artifact(folder, manifest.model.manifest_sha256, manifest.model.evidence_sha256)
