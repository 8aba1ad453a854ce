"""A bento compared with its own manifest, and its model with the bento."""

from pathlib import Path
from stat import S_ISREG

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import MANIFEST_NAME as MODEL_MANIFEST_NAME
from image_classifier.artifact.format import (
    describe_differences,
    file_names,
    sha256_bytes,
    sha256_tree,
)
from image_classifier.artifact.store import LOCK_NAME, read_lock
from release.content import MANIFEST_NAME, MODELS, content_digest, read_description
from release.errors import ReleaseError
from release.manifest import BentoManifest, read_manifest
from release.sealing import VERSION_DIGITS


def verify_bento(root: Path) -> BentoManifest:
    """Check every file of a sealed bento; a model that lies inside is checked too.

    Raises:
        ReleaseError: A file is missing, extra or changed, or the manifest contradicts itself.
        ArtifactError: The model inside is not the one of the lock.
    """
    manifest = read_manifest(root)
    present = {name for name in file_names(root) if not name.startswith(MODELS)} - {MANIFEST_NAME}
    if odd := sorted(name for name in present if not S_ISREG((root / name).lstat().st_mode)):
        raise ReleaseError(f"{root / odd[0]}: not a plain file; build the bento again")
    if differences := describe_differences(manifest.files, sha256_tree(root, present)):
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise ReleaseError(f"{root}: {differences[0]}{more}; build the bento again")
    _verify_identity(root, manifest)
    if (root / MODELS).is_dir():
        _verify_model(root / MODELS / manifest.model.tag.replace(":", "/"), manifest)
    return manifest


def _verify_identity(root: Path, manifest: BentoManifest) -> None:
    description = read_description(root)
    lock = read_lock(root / "src" / LOCK_NAME)
    claims = {
        "digest": (manifest.digest, content_digest(root)),
        "version": (manifest.version, manifest.digest[:VERSION_DIGITS]),
        "version in bento.yaml": (description["version"], manifest.version),
        "name in bento.yaml": (description["name"], manifest.name),
        "model": (manifest.model.model_dump(), lock.model_dump(exclude={"schema_version"})),
    }
    for what, (found, expected) in claims.items():
        if found != expected:
            raise ReleaseError(
                f"{root / MANIFEST_NAME}: {what} is {found}, expected {expected}; "
                "build the bento again"
            )


def _verify_model(folder: Path, manifest: BentoManifest) -> None:
    path = folder / MODEL_MANIFEST_NAME
    if not path.is_file():
        raise ReleaseError(f"{path}: not found; containerize the bento again")
    if sha256_bytes(path.read_bytes()) != manifest.model.manifest_sha256:
        raise ReleaseError(f"{path}: not the model of {MANIFEST_NAME}; containerize again")
    open_artifact(folder, manifest.model.manifest_sha256, manifest.model.evidence_sha256)
