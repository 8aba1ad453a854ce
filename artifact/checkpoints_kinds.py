"""What kind of file lies there, told by content and never by name."""

import zipfile
from pathlib import Path
from typing import BinaryIO

from artifact.errors import ArtifactError

ZIP_MAGIC = b"PK\x03\x04"
FOREIGN_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; run `git lfs pull`"),
    (b"<!doctype html", "a web page, saved in place of the file; fetch the file itself"),
    (b"<html", "a web page, saved in place of the file; fetch the file itself"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"\x89hdf", "an HDF5 file, as Keras writes; expected weights of PyTorch"),
    (b"gguf", "a GGUF file; expected weights of PyTorch"),
)
# Field numbers of ModelProto, onnx.proto3 of ONNX 1.23; 7 is the graph, 8 the opset imports.
ONNX_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
ONNX_NEEDED = frozenset({7, 8})


def is_torchscript(path: Path) -> bool:
    """Whether `path` is an archive of `torch.jit.save`: a zip with code and constants."""
    names = [member.filename for member in zip_members(path)]
    roots = {name.partition("/")[0] for name in names}
    return len(roots) == 1 and {"constants.pkl", "code"} <= {
        name.split("/")[1] for name in names if name.count("/")
    }


def is_onnx(path: Path) -> bool:
    """Whether `path` is a serialised ONNX ModelProto, by its outermost fields.

    Nothing but tags and lengths is read, so a file of any size costs no memory.
    """
    fields = set()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while file.tell() < size:
                fields.add(_skipped_field(file, size))
    except (OSError, ValueError):
        return False
    return ONNX_NEEDED <= fields <= ONNX_FIELDS


def refuse_foreign_file(path: Path) -> None:
    """Raise where the file is one of the things often given in place of weights.

    Raises:
        ArtifactError: Says what it is and what to do.
    """
    with path.open("rb") as file:
        start = file.read(32).lstrip().lower()
    for magic, remedy in FOREIGN_STARTS:
        if start.startswith(magic):
            raise ArtifactError(f"{path}: {remedy}")
    if any(member.filename.endswith("/models/model.json") for member in zip_members(path)):
        raise ArtifactError(f"{path}: a file of torch.export.save; expected a state dict")


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip archive lists; empty where `path` is no zip archive or its list is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(4) != ZIP_MAGIC:
                return []
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # A damaged list raises BadZipFile, but also UnicodeDecodeError, struct.error and more.
    except Exception:
        return []


def _skipped_field(file: BinaryIO, size: int) -> int:
    """Number of the protobuf field at the file's position; the position moves behind it.

    Raises:
        ValueError: No protobuf, or a field that ends behind the end of the file.
    """
    tag = _varint(file)
    wire = tag & 7
    if wire == 0:
        _varint(file)
    elif wire == 2:
        length = _varint(file)
        file.seek(length, 1)
    else:  # ModelProto has no fixed-width field
        raise ValueError(f"wire type {wire}")
    if file.tell() > size:
        raise ValueError("cut short")
    return tag >> 3


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("varint too long")
