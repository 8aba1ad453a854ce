"""The content of a bento as one digest, free of the time, the version and the builder."""

from pathlib import Path
from typing import Any

import yaml

from image_classifier.artifact.format import file_names, sha256_bytes, sha256_file
from release.errors import ReleaseError

BENTO_YAML = "bento.yaml"
PYTHON_VERSION = "env/python/version.txt"
MANIFEST_NAME = "manifest.json"
SBOM_NAME = "sbom.json"
ADDED = {MANIFEST_NAME, SBOM_NAME}
"""Written by `release.sealing` after the content is known."""
MODELS = "models/"
"""BentoML puts the model here in an export and in an image. `model.lock` has its digest."""
FIXED_TIME = "1980-01-01T00:00:00+00:00"
FIXED_EPOCH_S = 315_532_800
"""The same moment: the earliest that zip archives can hold."""


def content_names(root: Path) -> list[str]:
    """Names of the files the digest covers, sorted."""
    names = file_names(root) - ADDED
    return sorted(name for name in names if not name.startswith(MODELS))


def content_digest(root: Path) -> str:
    """sha256 over name and digest of each file of a bento.

    Two bentos of the same sources, lock and model have the same digest, whether `make bento` or
    a plain `bentoml build` made them: version, times and the builder's Python are left out, and
    so are permissions, which follow the umask.
    """
    lines = [f"{_neutral_sha256(root, name)}  {name}\n" for name in content_names(root)]
    return sha256_bytes("".join(lines).encode())


def _neutral_sha256(root: Path, name: str) -> str:
    if name == BENTO_YAML:
        return sha256_bytes(description_bytes(read_description(root), version=""))
    if name == PYTHON_VERSION:
        return sha256_bytes(b"")
    return sha256_file(root / name)


def read_description(root: Path) -> dict[str, Any]:
    """bento.yaml as a value.

    Raises:
        ReleaseError: There is none, or it is not one.
    """
    path = root / BENTO_YAML
    try:
        value = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path}: not a readable bento.yaml; build the bento again") from error
    if not isinstance(value, dict) or not {"name", "version", "docker"} <= value.keys():
        raise ReleaseError(
            f"{path}: no name, version or docker section; expected a bento of this project, "
            "built with its bentofile.yaml"
        )
    return value


def description_bytes(description: dict[str, Any], version: str) -> bytes:
    """bento.yaml with `version` and with one fixed time wherever BentoML writes the clock's."""
    value = _with_fixed_times({**description, "version": version})
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


def _with_fixed_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: FIXED_TIME if key == "creation_time" else _with_fixed_times(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_fixed_times(item) for item in value]
    return value
