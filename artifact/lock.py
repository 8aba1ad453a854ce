"""model.lock: the exact artifact that is served and built."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from artifact.errors import ArtifactError, first_problem
from artifact.manifest import Digest, FrozenModel

LOCK_NAME = "model.lock"


class ModelLock(FrozenModel):
    """Which artifact, to the byte.

    Attributes:
        tag: Name and version in BentoML's model store, never ":latest".
        manifest_sha256: Digest of its manifest, and through it of all its files.
    """

    schema_version: Literal[1] = 1
    tag: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*:[0-9a-f]{16}$")]
    manifest_sha256: Digest


def read_lock(path: Path) -> ModelLock:
    """Read a lock.

    Raises:
        ArtifactError: There is none, or it is not one.
    """
    try:
        return ModelLock.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: not found; import a model first (make import, or python model_import.py)"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; expected a readable file") from error
    except ValidationError as error:
        problem = first_problem(error)
        raise ArtifactError(f"{path}: {problem}; import the model again") from error


def check_lock_place(path: Path) -> None:
    """Refuse a place that takes no lock. Found out at the end, it would leave the store changed.

    Raises:
        ArtifactError: There is no such folder, it cannot be written, or `path` is no file.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ArtifactError(f"--lock {path}: there is no folder {folder}; make it")
    if path.exists() and not path.is_file():
        raise ArtifactError(f"--lock {path}: is no file; expected the name of a file to write")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"--lock {path}: the folder {folder} cannot be written; give another place (--lock)"
        )


def write_lock(path: Path, lock: ModelLock) -> None:
    """Replace the lock in one step: a reader sees the old one or the new one, whole."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(json.dumps(lock.model_dump(), indent=2, sort_keys=True) + "\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
