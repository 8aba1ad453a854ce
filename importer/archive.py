"""An artifact as one file, to carry between machines; unpacking one runs nothing that is in it."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import (
    EVIDENCE_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    REFERENCE_LOGITS_NAME,
    SIGNATURE_NAME,
    sha256_bytes,
)
from image_classifier.artifact.manifest import parse_manifest
from importer.errors import ImportRefused

FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date of a zip archive: true times would change the bytes."""
MAX_DESCRIPTION_BYTES = 64 << 20
"""Of files that are read whole; the manifest of 4096 golden samples takes 1 MB."""
UNPINNED_MEMBERS = {RECORD_NAME, SIGNATURE_NAME}
"""Members of an archive beside the pinned files, each where the artifact has it."""


def pack(artifact: Artifact, path: Path) -> None:
    """Write all files of an artifact into one zip archive, uncompressed.

    The same artifact gives the same bytes. The file appears whole or not at all.

    Raises:
        ImportRefused: The file exists, or cannot be written.
    """
    if path.exists():
        raise ImportRefused(f"{path}: exists; give another name, or remove it")
    beside = {name for name in UNPINNED_MEMBERS if artifact.path_of(name).is_file()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name in sorted(artifact.pinned_files().keys() | beside):
                member = zipfile.ZipInfo(name, FIRST_DATE)
                member.external_attr = (stat.S_IFREG | 0o644) << 16
                member.file_size = artifact.path_of(name).stat().st_size  # decides on ZIP64
                with (
                    artifact.path_of(name).open("rb") as source,
                    archive.open(member, "w") as target,
                ):
                    shutil.copyfileobj(source, target)
        part.replace(path)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def unpack(path: Path, root: Path, expected_digest: str | None) -> Artifact:
    """Write the files of an archive into a staging directory, and verify every one.

    Only files that the manifest names are written, as plain files, and no more bytes than the
    archive has. Nothing of it is run or loaded: it may come from anywhere.

    Args:
        root: An empty directory.
        expected_digest: sha256 the manifest must have; None takes any.

    Raises:
        OperatorError: It is no such archive, or does not hold what its manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path, expected_digest)
            for member in archive.infolist():
                target = root / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)
    # zipfile and the file system have many exceptions for hostile names and numbers.
    except (zipfile.BadZipFile, OSError, KeyError, EOFError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ImportRefused(
            f"{path}: no complete archive of `pack` ({type(error).__name__}: {reason}); copy it "
            "again"
        ) from error
    return open_artifact(root)


def _check_members(archive: zipfile.ZipFile, path: Path, expected_digest: str | None) -> None:
    """Refuse an archive whose files are not those that the manifest in it names."""
    members = archive.infolist()
    sizes = {member.filename: member.file_size for member in members}
    read_whole = (MANIFEST_NAME, EVIDENCE_NAME, *UNPINNED_MEMBERS)
    if (
        any(member.compress_type != zipfile.ZIP_STORED for member in members)
        or sum(member.file_size for member in members) > path.stat().st_size
        or max(sizes.get(name, 0) for name in read_whole) > MAX_DESCRIPTION_BYTES
    ):
        raise ImportRefused(
            f"{path}: a file in it is compressed or too large; nothing was imported"
        )
    data = archive.read(MANIFEST_NAME)
    if expected_digest not in (None, sha256_bytes(data)):
        raise ImportRefused(
            f"{path}: sha256 of its manifest is {sha256_bytes(data)}, expected {expected_digest}; "
            "it is another artifact than the one you were told of"
        )
    manifest = parse_manifest(data, f"{path}: {MANIFEST_NAME}")
    expected = {MANIFEST_NAME, EVIDENCE_NAME, REFERENCE_LOGITS_NAME, *manifest.files}
    if unexpected := sorted((set(sizes) - UNPINNED_MEMBERS) ^ expected):
        raise ImportRefused(
            f"{path}: its files are not those of its manifest "
            f"({', '.join(map(repr, unexpected[:3]))}); nothing was imported"
        )
