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
DESCRIPTIONS = {MANIFEST_NAME, EVIDENCE_NAME, *UNPINNED_MEMBERS}


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

    Only files that the manifest names are written, as plain files. Nothing of the archive is run
    or loaded: it may come from anywhere.

    Args:
        path: The archive.
        root: An empty directory.
        expected_digest: sha256 the manifest must have; None takes any.

    Raises:
        OperatorError: It is no such archive, or does not hold what its manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _checked_members(archive, path, root, expected_digest):
                target = root / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)
    # zipfile and the file system have many exceptions for hostile names and numbers.
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ImportRefused(
            f"{path}: no complete archive of `pack` ({type(error).__name__}: {reason}); copy it "
            "again"
        ) from error
    return open_artifact(root)


def _checked_members(
    archive: zipfile.ZipFile, path: Path, root: Path, expected_digest: str | None
) -> list[zipfile.ZipInfo]:
    """Return the members, which are those that the manifest in the archive names."""
    members = archive.infolist()
    names = [member.filename for member in members]
    for member in members:
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG) or member.is_dir():
            raise ImportRefused(
                f"{path}: {member.filename!r} is no plain file; nothing was imported"
            )
        if member.compress_type != zipfile.ZIP_STORED:
            raise ImportRefused(f"{path}: {member.filename!r} is compressed; nothing was imported")
        if member.filename in DESCRIPTIONS and member.file_size > MAX_DESCRIPTION_BYTES:
            raise ImportRefused(f"{path}: {member.filename!r} is too large; nothing was imported")
    total = sum(member.file_size for member in members)
    if total > path.stat().st_size or total > shutil.disk_usage(root).free:
        raise ImportRefused(
            f"{path}: its {len(members)} files claim {total} bytes, more than the archive or the "
            "free space has; nothing was imported"
        )
    if MANIFEST_NAME not in names:
        raise ImportRefused(f"{path}: holds no {MANIFEST_NAME}; expected an archive of `pack`")
    data = archive.read(MANIFEST_NAME)
    if expected_digest not in (None, sha256_bytes(data)):
        raise ImportRefused(
            f"{path}: sha256 of its manifest is {sha256_bytes(data)}, expected {expected_digest}; "
            "it is another artifact than the one you were told of"
        )
    manifest = parse_manifest(data, f"{path}: {MANIFEST_NAME}")
    expected = {MANIFEST_NAME, EVIDENCE_NAME, REFERENCE_LOGITS_NAME, *manifest.files}
    if unexpected := sorted((set(names) - UNPINNED_MEMBERS) ^ expected):
        raise ImportRefused(
            f"{path}: its files are not those of its manifest "
            f"({', '.join(map(repr, unexpected[:3]))}); nothing was imported"
        )
    if len(set(names)) < len(names):
        raise ImportRefused(f"{path}: holds a name twice; nothing was imported")
    return members
