"""Artifacts as tar archives, to carry between machines; unpacking runs no code from them."""

import tarfile
from pathlib import Path

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import RECORD_NAME, SIGNATURE_NAME, UNPINNED, replacing
from importer.errors import ImportRefused
from importer.failures import one_line
from preprocessing.errors import OperatorError

UNPINNED_PACKED = {RECORD_NAME, SIGNATURE_NAME}
"""Files that the artifact's digest does not cover and that travel."""
NOT_PACKED = UNPINNED - UNPINNED_PACKED


def pack(artifact: Artifact, path: Path) -> None:
    """Write all files of an artifact into an uncompressed tar archive.

    The same artifact gives the same bytes. The file appears complete or not at all.

    Raises:
        ImportRefused: The file exists, or cannot be written.
    """
    if path.exists():
        raise ImportRefused(f"{path}: exists; give another name, or remove it")
    unpinned = {name for name in UNPINNED_PACKED if artifact.path_of(name).is_file()}
    try:
        with replacing(path) as part, tarfile.open(part, "w") as archive:
            for name in sorted(artifact.pinned_files().keys() | unpinned):
                member = tarfile.TarInfo(name)  # without times, owners and modes of this machine
                member.size = artifact.path_of(name).stat().st_size
                with artifact.path_of(name).open("rb") as source:
                    archive.addfile(member, source)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; choose another place") from error


def unpack(path: Path, root: Path, expected_digest: str | None) -> Artifact:
    """Extract an archive into a staging directory, and verify every file.

    The archive may be hostile: nothing is written outside the directory, no more bytes than the
    archive has, and nothing in it is run.

    Args:
        root: An empty directory.
        expected_digest: sha256 the manifest must have; None accepts any.

    Raises:
        OperatorError: The file is no such archive, or differs from its manifest.
    """
    try:
        with tarfile.open(path, "r:") as archive:  # uncompressed only
            members = archive.getmembers()
            if sum(member.size for member in members) > path.stat().st_size:  # a sparse file
                raise tarfile.TarError("its files are larger than itself")
            for member in members:
                # Links could bypass Python's filter before 3.11.13 (CVE-2025-4517).
                if not member.isreg() or member.name in NOT_PACKED:
                    raise tarfile.TarError(f"{member.name!r} is not an artifact file")
            archive.extractall(root, members, filter="data")
    # tarfile and the file system have many exceptions for hostile names and numbers.
    except (tarfile.TarError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise ImportRefused(
            f"{path}: not a complete archive made by `pack` ({one_line(error)}); copy it again"
        ) from error
    try:
        return open_artifact(root, expected_digest)
    except OperatorError as error:
        raise ImportRefused(str(error).replace(str(root), str(path))) from error
