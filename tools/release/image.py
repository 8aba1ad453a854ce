"""Build the container image of a bento with podman, buildah or docker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.release import ReleaseError
from tools.release.content import FIXED_EPOCH_S
from tools.release.manifest import BentoManifest

BUILDERS = ("podman", "buildah", "docker")


def build_image(manifest: BentoManifest, *options: str) -> str:
    """Build the image of a bento in the store with the first builder that works.

    Args:
        manifest: The bento's.
        options: More long options of the builder, without dashes, such as "build-arg=BASE=…".

    Returns:
        The name of the image.

    Raises:
        ReleaseError: No builder works, or the build failed.
    """
    builder = _find_builder()
    tag = f"{manifest.name}:{manifest.version}"
    all_options = [
        *options,
        f"build-arg=SOURCE_COMMIT={manifest.source_commit or 'unknown'}",
        f"build-arg=BENTO_DIGEST=sha256:{manifest.digest}",
        f"build-arg=MODEL_DIGEST=sha256:{manifest.model.manifest_sha256}",
        *_reproducible(builder),
    ]
    command = [sys.executable, "-m", "bentoml", "containerize", tag, "--backend", builder]
    command += ["--image-tag", f"localhost/{tag}"]
    command += [word for option in all_options for word in ("--opt", option)]
    # BentoML 1.4.40 copies the Dockerfile template into a temporary directory and then accepts it
    # only below the working directory (resolve_user_filepath), so this runs in the root directory.
    done = subprocess.run(  # noqa: S603
        command,
        cwd=Path("/"),
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ReleaseError(f"image: {builder} could not build {tag}; its last lines:\n{lines}")
    return f"localhost/{tag}"


def _find_builder() -> str:
    for builder in BUILDERS:
        # `docker info` fails where there is a client without a daemon.
        if (
            shutil.which(builder)
            and not subprocess.run([builder, "info"], capture_output=True).returncode  # noqa: S603
        ):
            return builder
    raise ReleaseError(
        f"image: none of {', '.join(BUILDERS)} works here; install podman or start docker's daemon"
    )


def _reproducible(builder: str) -> list[str]:
    if builder == "docker":
        # Only buildx can rewrite the times inside layers; they stay those of the build.
        return [f"build-arg=SOURCE_DATE_EPOCH={FIXED_EPOCH_S}"]
    # The docker format, because OCI's has no health check.
    return [f"timestamp={FIXED_EPOCH_S}", "format=docker", "network=host"]
