"""The last step of a build: content version, fixed times and modes, manifest, SBOM."""

import os
from pathlib import Path

from image_classifier.artifact.format import file_names, sha256_tree
from image_classifier.artifact.store import LOCK_NAME, read_lock
from importer.serving_requirements import read_requirements
from importer.source_commit import source_commit
from tools.release.content import (
    BENTO_YAML,
    FIXED_EPOCH_S,
    MANIFEST_NAME,
    PYTHON_VERSION,
    SBOM_NAME,
    content_digest,
    content_names,
    description_bytes,
    read_description,
)
from tools.release.manifest import VERSION_DIGITS, BentoManifest
from tools.release.sbom import sbom_bytes


def seal(root: Path, commit: str | None) -> BentoManifest:
    """Give the bento below `root` its version, manifest and SBOM, and fix its times and modes.

    Raises:
        ReleaseError: `root` is no bento of this project.
        ArtifactError: The bento has no model.lock.
    """
    description = read_description(root)
    digest = content_digest(root)
    version = digest[:VERSION_DIGITS]
    lock = read_lock(root / "src" / LOCK_NAME)
    (root / BENTO_YAML).write_bytes(description_bytes(description, version))
    (root / PYTHON_VERSION).write_text(str(description["docker"]["python_version"]))
    requirements = read_requirements(root / "src" / description["python"]["requirements_txt"])
    (root / SBOM_NAME).write_bytes(
        sbom_bytes(f"{description['name']}:{version}", digest, lock, requirements)
    )
    manifest = BentoManifest(
        name=description["name"],
        version=version,
        digest=digest,
        model=lock,
        source_commit=commit,
        files=sha256_tree(root, [*content_names(root), SBOM_NAME]),
    )
    (root / MANIFEST_NAME).write_bytes(manifest.to_json())
    _fix_times_and_modes(root)
    return manifest


def _fix_times_and_modes(root: Path) -> None:
    deepest_first = sorted(root.rglob("*"), reverse=True)
    for path in (*deepest_first, root):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
            continue
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (FIXED_EPOCH_S, FIXED_EPOCH_S))


def commit_of_packed(checkout: Path, bento: Path) -> str | None:
    """Return the commit of the files packed from `checkout`; see `BentoManifest`."""
    # model.lock is no source: each checkout has its own, and git ignores or lacks it.
    packed = file_names(bento / "src") - {LOCK_NAME}
    sources = sorted(name for name in packed if (checkout / name).is_file())
    return source_commit(checkout, *sources)
