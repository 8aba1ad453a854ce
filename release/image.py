"""The container image of a bento, with the builder that is there."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from release.content import FIXED_EPOCH_S
from release.errors import ReleaseError
from release.manifest import BentoManifest

TOOLS = ("podman", "buildah", "docker")


@dataclass(frozen=True, kw_only=True)
class Bases:
    """Images to start from; None leaves the one of the Containerfile.

    Attributes:
        base: Of the image; a Python 3.11 and what it needs. Name it with its digest.
        build_base: Of the stage that installs packages: the same Python, with venv and pip.
    """

    base: str | None = None
    build_base: str | None = None

    def options(self) -> list[str]:
        """Build arguments."""
        given = {"BASE": self.base, "BUILD_BASE": self.build_base}
        return [f"build-arg={name}={value}" for name, value in given.items() if value]


def find_tool() -> str:
    """The first builder that works here.

    Raises:
        ReleaseError: There is none.
    """
    for tool in TOOLS:
        if shutil.which(tool) and _answers([tool, "info"]):
            return tool
    raise ReleaseError(
        f"image: none of {', '.join(TOOLS)} works here; install podman, or start docker's daemon"
    )


def _answers(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0  # noqa: S603


def build_image(manifest: BentoManifest, tool: str, bases: Bases, *, cache: bool = True) -> str:
    """Build the image of a bento in the store; returns its name.

    Raises:
        ReleaseError: The build failed.
    """
    tag = f"{manifest.name}:{manifest.version}"
    image = f"localhost/{tag}"
    options = [
        *bases.options(),
        f"build-arg=SOURCE_COMMIT={manifest.source_commit or 'unknown'}",
        f"build-arg=BENTO_DIGEST=sha256:{manifest.digest}",
        f"build-arg=MODEL_DIGEST=sha256:{manifest.model.manifest_sha256}",
        *_reproducible(tool),
        *([] if cache else ["no-cache"]),
    ]
    command = [sys.executable, "-m", "bentoml", "containerize", tag, "--backend", tool]
    command += ["--image-tag", image, *(word for one in options for word in ("--opt", one))]
    # From the root: BentoML 1.4.39 takes the template, which it has copied to a temporary
    # directory, only if that is below the working directory (resolve_user_filepath).
    done = subprocess.run(  # noqa: S603
        command, cwd=Path("/"), env=_environment(), capture_output=True, text=True
    )
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ReleaseError(f"image: {tool} could not build {tag}; its last lines:\n{lines}")
    return image


def _reproducible(tool: str) -> list[str]:
    if tool == "docker":
        # Times inside the layers stay those of the build: only buildx can rewrite them.
        return [f"build-arg=SOURCE_DATE_EPOCH={FIXED_EPOCH_S}"]
    # The docker format: OCI has no health check.
    return [f"timestamp={FIXED_EPOCH_S}", "format=docker", "network=host"]


def _environment() -> dict[str, str]:
    return {**os.environ, "BENTOML_DO_NOT_TRACK": "True"}
