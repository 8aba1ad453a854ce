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


def write_lock(path: Path, lock: ModelLock) -> None:
    """Replace the lock in one step: a reader sees the old one or the new one, whole."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(lock.model_dump(), indent=2, sort_keys=True) + "\n")
    draft.replace(path)
