"""The digest of a bento's content, independent of build time, version and builder."""

from pathlib import Path
from typing import Any

import yaml

from image_classifier.artifact.format import file_names, sha256_bytes, sha256_file
from image_classifier.artifact.store import LOCK_NAME, read_lock
from tools.release import ReleaseError

BENTO_YAML = "bento.yaml"
PYTHON_VERSION = "env/python/version.txt"
SBOM_NAME = "sbom.json"
MODELS = "models/"
"""Where BentoML puts the model in exports and images; `model.lock` has its digest."""
FIXED_TIME = "1980-01-01T00:00:00+00:00"
FIXED_EPOCH_S = 315_532_800
"""`FIXED_TIME` in Unix seconds: the earliest time in a zip archive."""


def locked_model(folder: Path) -> Path:
    """Return the path, below a BENTOML_HOME, of the model that a directory's model.lock names."""
    return Path(MODELS) / read_lock(folder / LOCK_NAME).tag.replace(":", "/")


def content_names(root: Path) -> list[str]:
    """Return the sorted names of the files that the digest covers: all but SBOM and model."""
    names = file_names(root) - {SBOM_NAME}
    return sorted(name for name in names if not name.startswith(MODELS))


def content_digest(root: Path) -> str:
    """Return the sha256 over the name and digest of each file of a bento.

    Bentos of the same sources, requirement lock and model have the same digest, whether built by
    `make bento` or `bentoml build`. The digest ignores the version, times, the patch version of
    the building Python, and permissions, which depend on the umask.
    """
    lines = [f"{_normalised_sha256(root, name)}  {name}\n" for name in content_names(root)]
    return sha256_bytes("".join(lines).encode())


def _normalised_sha256(root: Path, name: str) -> str:
    if name == BENTO_YAML:
        return sha256_bytes(description_bytes(read_description(root), version=""))
    if name == PYTHON_VERSION:
        return sha256_bytes(b"")
    return sha256_file(root / name)


def bento_tag(root: Path) -> str:
    """Return "name:version" of a bento."""
    return "{name}:{version}".format_map(read_description(root))


def read_description(root: Path) -> dict[str, Any]:
    """Parse bento.yaml.

    Raises:
        ReleaseError: The file is missing, unreadable or not of a bento of this project.
    """
    path = root / BENTO_YAML
    try:
        value = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path}: not a readable bento.yaml; build the bento again") from error
    if not isinstance(value, dict) or not {"name", "version", "docker", "python"} <= value.keys():
        raise ReleaseError(
            f"{path}: has no name, version, docker or python section; expected a bento built with "
            "this project's bentofile.yaml"
        )
    return value


def description_bytes(description: dict[str, Any], version: str) -> bytes:
    """Render bento.yaml with the given version and `FIXED_TIME` as every creation time."""
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
