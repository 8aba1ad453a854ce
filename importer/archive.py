"""An artifact as one file, to carry between machines; reading one runs nothing that is in it."""

import hashlib
import os
import shutil
import stat
import zipfile
from pathlib import Path

from image_classifier.artifact.artifact import Artifact, open_artifact
from image_classifier.artifact.format import (
    CHUNK_BYTES,
    EVIDENCE_NAME,
    MANIFEST_NAME,
    RECORD_NAME,
    REFERENCE_LOGITS_NAME,
    SIGNATURE_NAME,
    sha256_bytes,
)
from image_classifier.artifact.manifest import Manifest, parse_manifest
from importer.errors import ImportRefused

FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest a zip archive can say: times would change the bytes."""
MAX_DESCRIPTION_BYTES = 64 << 20
"""Of files that are read whole; the manifest of 4096 golden samples takes 1 MB."""
UNPINNED_MEMBERS = (RECORD_NAME, SIGNATURE_NAME)
"""Members of an archive beside the pinned files, each where the artifact has it."""
ENCRYPTED = 0x1


def write_archive(artifact: Artifact, path: Path) -> None:
    """Write all files of an artifact into one zip archive, uncompressed.

    The same artifact gives the same bytes. The file appears whole or not at all.

    Raises:
        ImportRefused: The file exists, or cannot be written.
    """
    if path.exists():
        raise ImportRefused(f"{path}: exists; give another name, or remove it")
    beside = [name for name in UNPINNED_MEMBERS if artifact.path_of(name).is_file()]
    names = [MANIFEST_NAME, *beside, *sorted(artifact.pinned_files().keys() - {MANIFEST_NAME})]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name in names:
                member = zipfile.ZipInfo(name, FIRST_DATE)
                member.external_attr = (stat.S_IFREG | 0o644) << 16
                member.file_size = artifact.path_of(name).stat().st_size  # decides on ZIP64
                with (
                    artifact.path_of(name).open("rb") as source,
                    archive.open(member, "w") as target,
                ):
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
        part.replace(path)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def read_archive(path: Path, root: Path, expected_digest: str | None) -> Artifact:
    """Unpack an archive into a staging directory, and verify every file.

    Nothing of it is run or loaded: it may come from anywhere. Only files that the manifest
    names are written, each while its digest is computed.

    Args:
        path: The archive.
        root: An empty directory.
        expected_digest: sha256 the manifest must have; None takes any.

    Raises:
        OperatorError: It is no such archive, or does not hold what its manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpacked(archive, path, root, expected_digest)
    # zipfile and the file system have many exceptions for hostile names and numbers.
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ImportRefused(
            f"{path}: no complete archive of `export` ({type(error).__name__}: {reason}); copy it "
            "again"
        ) from error


def _unpacked(
    archive: zipfile.ZipFile, path: Path, root: Path, expected_digest: str | None
) -> Artifact:
    members = archive.infolist()
    for member in members:
        if problem := _problem(member):
            raise ImportRefused(f"{path}: {member.filename!r} {problem}; nothing was imported")
    by_name = {member.filename: member for member in members}
    total = sum(member.file_size for member in members)
    if total > path.stat().st_size or total > shutil.disk_usage(root).free:
        raise ImportRefused(
            f"{path}: its {len(members)} files claim {total} bytes, more than the archive or the "
            "free space has; nothing was imported"
        )
    manifest = _manifest(archive, by_name, path, expected_digest)
    expected = {MANIFEST_NAME, EVIDENCE_NAME, REFERENCE_LOGITS_NAME, *manifest.files}
    unexpected = by_name.keys() - {*UNPINNED_MEMBERS} ^ expected
    if len(by_name) != len(members) or unexpected:
        shown = ", ".join(repr(name) for name in sorted(unexpected)[:3]) or "a name twice"
        raise ImportRefused(
            f"{path}: its files are not those of its manifest ({shown}); nothing was imported"
        )
    for name, member in by_name.items():
        _write(archive, member, root / name, manifest.files.get(name))
    return open_artifact(root)


def _problem(member: zipfile.ZipInfo) -> str:
    """Why a member cannot be one of ours; empty where it can."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or member.is_dir():
        return "is no plain file"
    if member.filename.startswith("/") or ".." in member.filename.split("/"):
        return "leaves the artifact"
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
        return "is compressed or encrypted"
    if member.file_size != member.compress_size:
        return "has two sizes"
    described = member.filename in (MANIFEST_NAME, EVIDENCE_NAME, *UNPINNED_MEMBERS)
    return "is too large" if described and member.file_size > MAX_DESCRIPTION_BYTES else ""


def _manifest(
    archive: zipfile.ZipFile,
    by_name: dict[str, zipfile.ZipInfo],
    path: Path,
    expected_digest: str | None,
) -> Manifest:
    if MANIFEST_NAME not in by_name:
        raise ImportRefused(f"{path}: holds no {MANIFEST_NAME}; expected an archive of `export`")
    data = archive.read(by_name[MANIFEST_NAME])
    digest = sha256_bytes(data)
    if expected_digest not in (None, digest):
        raise ImportRefused(
            f"{path}: the digest of its manifest is {digest}, expected {expected_digest}; it is "
            "not the artifact you were told of"
        )
    return parse_manifest(data, f"{path}: {MANIFEST_NAME}")


def _write(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, expected: str | None
) -> None:
    """Write one file; `expected` is its sha256, None for what the manifest does not name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(member) as source, target.open("xb") as file:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if expected not in (None, digest.hexdigest()):
        raise ImportRefused(
            f"{archive.filename}: {member.filename}: sha256 is {digest.hexdigest()}, its manifest "
            f"says {expected}; nothing was imported"
        )
