"""An artifact as one file, to carry between machines; unpacking one runs nothing that is in it."""

import os
import tarfile
from pathlib import Path

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import RECORD_NAME, SIGNATURE_NAME, UNPINNED
from importer.errors import ImportRefused
from preprocessing.errors import OperatorError

BESIDE = {RECORD_NAME, SIGNATURE_NAME}
"""Files of an artifact that its digest does not cover, and that travel."""
NOT_PACKED = UNPINNED - BESIDE


def pack(artifact: Artifact, path: Path) -> None:
    """Write all files of an artifact into one uncompressed tar archive.

    The same artifact gives the same bytes. The file appears whole or not at all.

    Raises:
        ImportRefused: The file exists, or cannot be written.
    """
    if path.exists():
        raise ImportRefused(f"{path}: exists; give another name, or remove it")
    beside = {name for name in BESIDE if artifact.path_of(name).is_file()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with tarfile.open(part, "w") as archive:
            for name in sorted(artifact.pinned_files().keys() | beside):
                member = tarfile.TarInfo(name)  # without times, owners and modes of this machine
                member.size = artifact.path_of(name).stat().st_size
                with artifact.path_of(name).open("rb") as source:
                    archive.addfile(member, source)
        part.replace(path)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def unpack(path: Path, root: Path, expected_digest: str | None) -> Artifact:
    """Write the files of an archive into a staging directory, and verify every one.

    Nothing leaves the directory, and no more bytes are written than the archive has. Nothing of it
    is run or loaded: it may come from anywhere.

    Args:
        root: An empty directory.
        expected_digest: sha256 the manifest must have; None takes any.

    Raises:
        OperatorError: It is no such archive, or does not hold what its manifest says.
    """
    try:
        with tarfile.open(path, "r:") as archive:  # uncompressed alone
            members = archive.getmembers()
            if sum(member.size for member in members) > path.stat().st_size:  # a sparse file
                raise tarfile.TarError("its files are larger than itself")
            # With links Python's filter could be got round before 3.11.13 (CVE-2025-4517).
            if strange := [it.name for it in members if not it.isreg() or it.name in NOT_PACKED]:
                raise tarfile.TarError(f"{strange[0]!r} is no file of an artifact")
            archive.extractall(root, members, filter="data")
    # tarfile and the file system have many exceptions for hostile names and numbers.
    except (tarfile.TarError, OSError, EOFError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ImportRefused(
            f"{path}: no complete archive of `pack` ({reason}); copy it again"
        ) from error
    try:
        return open_artifact(root, expected_digest)
    except OperatorError as error:
        raise ImportRefused(str(error).replace(str(root), str(path))) from error
