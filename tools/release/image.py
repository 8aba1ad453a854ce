"""Build the container image of a bento with podman, buildah or docker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from image_classifier.artifact.store import LOCK_NAME, read_lock
from tools.release import ReleaseError
from tools.release.content import FIXED_EPOCH_S, bento_tag, content_digest
from tools.release.sealing import recorded_commit

BUILDERS = ("podman", "buildah", "docker")


def build_image(root: Path, *options: str) -> str:
    """Build the image of a bento in the store with the first builder that is installed.

    Args:
        root: Directory of the bento.
        options: More long options of the builder, without dashes, such as "build-arg=BASE=…".

    Returns:
        The name of the image.

    Raises:
        ReleaseError: No builder is installed, or the build failed.
    """
    builder = next(filter(shutil.which, BUILDERS), None)
    if builder is None:
        raise ReleaseError(f"image: none of {', '.join(BUILDERS)} is installed; install podman")
    tag, lock = bento_tag(root), read_lock(root / "src" / LOCK_NAME)
    all_options = [
        *options,
        f"build-arg=SOURCE_COMMIT={recorded_commit(root) or 'unknown'}",
        f"build-arg=BENTO_DIGEST=sha256:{content_digest(root)}",
        f"build-arg=MODEL_DIGEST=sha256:{lock.manifest_sha256}",
    ]
    if builder == "docker":
        # Only buildx can rewrite the times inside layers; they stay those of the build.
        all_options.append(f"build-arg=SOURCE_DATE_EPOCH={FIXED_EPOCH_S}")
    else:
        # The docker format, because OCI's has no health check.
        all_options += [f"timestamp={FIXED_EPOCH_S}", "format=docker", "network=host"]
    command = [sys.executable, "-m", "bentoml", "containerize", tag, "--backend", builder]
    command += ["--image-tag", f"localhost/{tag}"]
    command += [word for option in all_options for word in ("--opt", option)]
    # In the root directory: BentoML 1.4.40 copies the Dockerfile template into a temporary
    # directory and accepts it only below the working directory (resolve_user_filepath).
    done = subprocess.run(  # noqa: S603
        command,
        cwd=Path("/"),
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ReleaseError(
            f"image: {builder}, the first builder installed, could not build {tag}; its last "
            f"lines:\n{lines}"
        )
    return f"localhost/{tag}"
