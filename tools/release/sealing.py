"""The last step of a build: a version made of the content, an SBOM, fixed times and modes."""

import os
import re
from pathlib import Path
from stat import S_ISREG

from image_classifier.artifact.artifact import open_artifact
from image_classifier.artifact.format import file_names
from image_classifier.artifact.store import LOCK_NAME, read_lock
from importer.serving_requirements import read_requirements
from importer.source_commit import source_commit
from tools.release import ReleaseError
from tools.release.content import (
    BENTO_YAML,
    FIXED_EPOCH_S,
    MODELS,
    PYTHON_VERSION,
    SBOM_NAME,
    content_digest,
    content_names,
    description_bytes,
    locked_model,
    read_description,
)
from tools.release.sbom import sbom_bytes

VERSION_DIGITS = 16


def seal(root: Path, commit: str | None) -> None:
    """Give the bento below `root` its version and SBOM, and fix its times and modes.

    Args:
        commit: Source of the packed files; see `commit_of_packed`.

    Raises:
        ReleaseError: `root` is no bento of this project.
        ArtifactError: The bento has no model.lock.
    """
    for name, data in _derived_files(root, commit).items():
        (root / name).write_bytes(data)
    deepest_first = sorted(root.rglob("*"), reverse=True)
    for path in (*deepest_first, root):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
            continue
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (FIXED_EPOCH_S, FIXED_EPOCH_S))


def verify_bento(root: Path) -> str:
    """Compare a sealed bento with its version, and its model, if it is inside, with the lock.

    Returns:
        The digest of the content.

    Raises:
        ReleaseError: A file is missing, extra or changed, or the bento is not sealed.
        ArtifactError: The model inside is damaged, or not the locked one.
    """
    for name in content_names(root):
        if not S_ISREG((root / name).lstat().st_mode):
            raise ReleaseError(f"{root / name}: not a plain file; build the bento again")
    digest = content_digest(root)
    for name, expected in _derived_files(root, recorded_commit(root)).items():
        path = root / name
        if not path.is_file() or path.read_bytes() != expected:
            raise ReleaseError(
                f"{path}: does not fit the content, whose digest is {digest}: a file was changed, "
                "added or removed since `make bento`, or the bento is of a plain `bentoml build`; "
                "build the bento again"
            )
    if (root / MODELS).is_dir():
        lock = read_lock(root / "src" / LOCK_NAME)
        open_artifact(root / locked_model(root / "src"), lock.manifest_sha256, lock.evidence_sha256)
    return digest


def _derived_files(root: Path, commit: str | None) -> dict[str, bytes]:
    """Return the files of a sealed bento that follow from its content, by name."""
    description, digest = read_description(root), content_digest(root)
    version = digest[:VERSION_DIGITS]
    tag = f"{description['name']}:{version}"
    lock = read_lock(root / "src" / LOCK_NAME)
    requirements = read_requirements(root / "src" / description["python"]["requirements_txt"])
    return {
        BENTO_YAML: description_bytes(description, version),
        PYTHON_VERSION: str(description["docker"]["python_version"]).encode(),
        SBOM_NAME: sbom_bytes(tag, digest, lock, requirements, commit),
    }


def commit_of_packed(checkout: Path, bento: Path) -> str | None:
    """Return the commit of the files packed from `checkout`; ends in "-dirty" if one differs."""
    # model.lock is no source: each checkout has its own, and git ignores or lacks it.
    packed = file_names(bento / "src") - {LOCK_NAME}
    sources = sorted(name for name in packed if (checkout / name).is_file())
    return source_commit(checkout, *sources)


def recorded_commit(root: Path) -> str | None:
    """Return the commit in the SBOM of a bento, if any."""
    path = root / SBOM_NAME
    data = path.read_bytes() if path.is_file() else b""
    found = re.search(rb'"uid": "([0-9a-f]+(?:-dirty)?)"', data)
    return found[1].decode() if found else None
