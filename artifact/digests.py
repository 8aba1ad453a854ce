"""SHA-256 digests of files, and how two sets of them differ."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks so that memory stays small."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Digests of `names` below `root`, computed on all cores (hashlib releases the GIL)."""
    ordered = sorted(names)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(
            zip(ordered, pool.map(lambda name: sha256_file(root / name), ordered), strict=True)
        )


def file_names(root: Path) -> set[str]:
    """Names of all files below `root`, relative, with forward slashes.

    A symbolic link counts as a file, so that it never passes as part of an artifact unseen.
    """
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def describe_differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """What differs between two maps of file name to digest, one line a file, sorted."""
    lines = [f"missing: {name}" for name in expected.keys() - actual.keys()]
    lines += [f"extra: {name}" for name in actual.keys() - expected.keys()]
    lines += [
        f"changed: {name} (sha256 is {actual[name]}, expected {digest})"
        for name, digest in expected.items()
        if name in actual and actual[name] != digest
    ]
    return sorted(lines)
