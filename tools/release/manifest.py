"""The manifest of a bento: digest, model and files, and the check that they are all true."""

from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import (
    Digest,
    FrozenModel,
    describe_differences,
    file_names,
    first_problem,
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
        raise ReleaseError(f"{path}: {first_problem(error)}; build the bento again") from error


def verify_bento(root: Path) -> BentoManifest:
    """Compare every file of a bento with its manifest, and its model, if one is inside.

    Raises:
        ReleaseError: A file is missing, extra or changed, or the manifest contradicts itself.
        ArtifactError: The model inside is damaged, or another one.
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
        folder = root / MODELS / manifest.model.tag.replace(":", "/")
        open_artifact(folder, manifest.model.manifest_sha256, manifest.model.evidence_sha256)
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
