"""The image built twice, compared, measured, and run locked down by tests/deploy/test_image.py."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from artifact.digests import sha256_bytes
from release.base_images import stand_in_bases
from release.building import bentoml_home, build_bento
from release.container_config import write_configuration
from release.errors import ReleaseError
from release.image import Bases, build_image
from release.manifest import BentoManifest

RESULTS = Path("deploy/results/image.json")


def try_image(checkout: Path, bases: Bases) -> str:
    """Build, compare, measure, test; returns what to print.

    Raises:
        ReleaseError: The builds differ or a test failed.
    """
    if reason := _cannot_run():
        return f"skipped: {reason}"
    folder = checkout / "build" / "image-test"
    os.environ.update(write_configuration(folder))
    stand_in = bases.base is None
    if stand_in:
        bases = stand_in_bases(folder)
    manifest, _ = build_bento(checkout)
    first, seconds = _built(folder, manifest, bases)
    second, _ = _built(folder, manifest, bases)
    if first != second:
        raise ReleaseError(f"image: the second build is {second}, expected {first}; report it")
    image = f"localhost/{manifest.name}:{manifest.version}"
    record = {"content": first, **_measured(image, manifest, seconds, stand_in=stand_in)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q", "tests/deploy/test_image.py"],
        cwd=checkout,
        env={
            **os.environ,
            "CLASSIFIER_TEST_IMAGE": image,
            "CLASSIFIER_TEST_HOME": str(bentoml_home()),
        },
    )
    if done.returncode:
        raise ReleaseError("image: a test failed; see above")
    path = checkout / RESULTS
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return f"identical twice: {first}\n{record['megabytes']} MB; written to {RESULTS}"


def _cannot_run() -> str:
    if os.geteuid() != 0:
        return "needs root: rootless podman is not set up by this trial"
    missing = [tool for tool in ("podman", "runc") if not shutil.which(tool)]
    return f"{', '.join(missing)} not found (apt-get install podman runc)" if missing else ""


def _built(folder: Path, manifest: BentoManifest, bases: Bases) -> tuple[str, float]:
    """Digest of layers and configuration, and seconds without any layer of an earlier build.

    Not the image's id: podman 4.3 writes the random names of its intermediate images into the
    history, which is part of the id.
    """
    run_configuration = os.environ["CONTAINERS_CONF"]
    os.environ["CONTAINERS_CONF"] = str(folder / "build.conf")
    started = time.monotonic()
    try:
        image = build_image(manifest, "podman", bases, cache=False)
    finally:
        os.environ["CONTAINERS_CONF"] = run_configuration
    seconds = time.monotonic() - started
    found = _inspected(image)
    content = [found[part] for part in ("RootFS", "Config", "Healthcheck", "Architecture", "Os")]
    return sha256_bytes(json.dumps(content, sort_keys=True).encode()), seconds


def _inspected(image: str) -> dict[str, Any]:
    command = ["podman", "image", "inspect", image]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def _measured(
    image: str, manifest: BentoManifest, seconds: float, *, stand_in: bool
) -> dict[str, Any]:
    command = ["podman", "history", "--human=false", "--no-trunc", "--format=json", image]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    layers = [
        {"step": step, "bytes": entry["size"]}
        for entry in reversed(json.loads(done.stdout))
        if entry["size"] and (step := _step_name(entry["CreatedBy"]))
    ]
    total = sum(layer["bytes"] for layer in layers)
    weights = sum(layer["bytes"] for layer in layers if layer["step"] == "model")
    return {
        "bento": f"{manifest.name}:{manifest.version}",
        "base": "Debian 12 packages (stand-in)" if stand_in else "given",
        "build_seconds": round(seconds, 1),
        "megabytes": round(total / 1e6, 1),
        "megabytes_beside_the_model": round((total - weights) / 1e6, 1),
        "layers": layers,
    }


STEPS = {
    "imported from tarball": "base",
    "/app/venv": "packages",
    "./models": "model",
    "./src": "code",
}


def _step_name(created_by: str) -> str:
    for part, name in STEPS.items():
        if part in created_by:
            return name
    return "base" if "ADD file" in created_by else "description"
