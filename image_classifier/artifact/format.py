"""What all files of an artifact share: their names, digests, base values and errors."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from preprocessing.errors import OperatorError


class ArtifactError(OperatorError):
    """An artifact, or what one is made from, is missing, damaged or not what it claims to be."""


def first_problem(error: ValidationError, whole: str = "the file") -> str:
    """Where the first thing wrong is, and what: "engines.0.file: Field required".

    Args:
        whole: Said where the problem is in no field.
    """
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or whole}: {first['msg']}"


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, which is not held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
"""Lock of the packages a bento of this model needs, where its preprocessing class has its own."""
UNPINNED = frozenset({RECORD_NAME, SLO_NAME, SIGNATURE_NAME, BENTOML_NAME})
"""Files that neither the manifest nor the evidence holds a digest of: measured speed, the
signature, and BentoML's own description."""

SCHEMA_VERSION: Final = 2
"""Of manifest.json, evidence.json and model.lock; raised with every change that an older program
cannot read. See docs/artifact.md."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


class FrozenModel(BaseModel):
    """A value from outside: checked once, never changed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> bytes:
        """Return the canonical bytes: UTF-8, sorted keys, two spaces, one final newline."""
        data = self.model_dump(mode="json")
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


Model = TypeVar("Model", bound=FrozenModel)


def read_model(
    kind: type[Model], path: Path, remedy: str = "import the model again"
) -> tuple[Model, bytes]:
    """Read a JSON file; return its value and its bytes.

    Raises:
        ArtifactError: It cannot be read, or is not of this kind.
    """
    try:
        data = path.read_bytes()
        return kind.model_validate_json(data), data
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; {remedy}") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: {first_problem(error)}; {remedy}") from error
