"""File names, digests, base class, errors and atomic writing shared by all files of an artifact."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from preprocessing.errors import OperatorError


class ArtifactError(OperatorError):
    """An artifact, or a source of one, is missing, damaged or not what it claims to be."""


def first_problem(error: ValidationError) -> str:
    """Return the place and the message of the first problem: "engines.0.file: Field required"."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    found = first["input"]
    if isinstance(found, str | int | float) and len(str(found)) < 100 and first["loc"]:
        return f"{place}: {first['msg']}, found {found!r}"
    return f"{place}: {first['msg']}"


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, without reading it into memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of `names` below `root`, computed in parallel."""
    ordered = sorted(names)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(
            zip(ordered, pool.map(lambda name: sha256_file(root / name), ordered), strict=True)
        )


def file_names(root: Path) -> set[str]:
    """Return the relative names of all files below `root`, with forward slashes.

    Symbolic links count as files, so that none goes unnoticed in an artifact.
    """
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


@contextmanager
def replacing(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Yield a temporary file that becomes `path` at the end; if writing it fails, it is removed.

    Args:
        beside: A path in the same file system, in whose folder the temporary file is; by default
            that of `path`.
    """
    temporary = (beside or path).with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def describe_differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> str:
    """Describe the first difference of two maps of file name to digest; "" if they are equal."""
    lines = [f"missing: {name}" for name in expected.keys() - actual.keys()]
    lines += [f"extra: {name}" for name in actual.keys() - expected.keys()]
    lines += [
        f"changed: {name} (sha256 is {actual[name]}, expected {digest})"
        for name, digest in expected.items()
        if name in actual and actual[name] != digest
    ]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"{min(lines, default='')}{more}"


MANIFEST_NAME = "manifest.json"
EVIDENCE_NAME = "evidence.json"
RECORD_NAME = "record.json"
SLO_NAME = "slo.json"
SIGNATURE_NAME = "model.sig"
BENTOML_NAME = "model.yaml"
LABELS_NAME = "labels.json"
WEIGHTS_NAME = "weights.safetensors"
REFERENCE_LOGITS_NAME = "golden/logits.npy"
SERVING_REQUIREMENTS_NAME = "preprocessing/requirements.txt"
"""Package lock of a bento, if the user's preprocessing class needs further packages."""
UNPINNED = frozenset({RECORD_NAME, SLO_NAME, SIGNATURE_NAME, BENTOML_NAME})
"""Files without a digest in manifest or evidence: measured speed, the signature, and BentoML's
own description."""

SCHEMA_VERSION: Final = 2
"""Version of manifest.json, evidence.json and model.lock; raised with every change that an older
program cannot read. See docs/artifact.md."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


class FrozenModel(BaseModel):
    """A value from outside: validated once, immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> bytes:
        """Return the canonical bytes: UTF-8, sorted keys, two spaces, one final newline."""
        data = self.model_dump(mode="json")
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


Model = TypeVar("Model", bound=FrozenModel)


def read_model(
    kind: type[Model],
    path: Path,
    remedy: str = "import the model again",
    *,
    sha256: str | None = None,
) -> tuple[Model, str]:
    """Read a JSON file; return its value and its digest.

    Args:
        sha256: Digest that the file must have; it is compared before the file is parsed.

    Raises:
        ArtifactError: The file cannot be read, has another digest or is not valid.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ArtifactError(f"{path}: is not a file; {remedy}")
        data = path.read_bytes()
        digest = sha256_bytes(data)
        if sha256 not in (None, digest):
            # The version in the store is the manifest's digest, so only other files are replaced.
            replaced = ", or a later import of the same model replaced it"
            cause = "it was changed" + replaced * (path.name != MANIFEST_NAME)
            raise ArtifactError(f"{path}: sha256 is {digest}, expected {sha256}: {cause}; {remedy}")
        return kind.model_validate_json(data), digest
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; {remedy}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: {first_problem(error)}; {remedy}") from error
