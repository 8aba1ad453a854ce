"""The image built twice, compared, measured, and run locked down by tests/deploy/test_image.py."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from image_classifier.artifact.format import sha256_bytes
from release.base_images import stand_in_bases
from release.building import bentoml_home, build_bento
from release.container_config import write_configuration
from release.errors import ReleaseError
from release.image import Bases, build_image
from release.image_measurement import podman_json, sizes, start
from release.image_report import with_tables
from release.manifest import BentoManifest

RESULTS = Path("deploy/results/image.json")
TESTS = ("tests/deploy/test_image.py", "tests/deploy/test_played.py")
DOCUMENT = Path("docs/deploy.md")


def try_image(checkout: Path, bases: Bases) -> str:
    """Build, compare, measure, test; returns what to print.

    Raises:
        ReleaseError: The builds differ or a test failed.
    """
    if reason := _cannot_run():
        return f"skipped: {reason}"
    folder = checkout / "build" / "image-test"
    os.environ.update(write_configuration(folder))
    origin = bases.base or "Debian 12 packages, a stand-in"
    if bases.base is None:
        bases = stand_in_bases(folder)
    manifest, _ = build_bento(checkout)
    content, seconds = _built_twice(folder, manifest, bases)
    tag = f"{manifest.name}:{manifest.version}"
    record = {"bento": tag, "content": content, "base": origin, "build_seconds": round(seconds, 1)}
    record |= {**sizes(f"localhost/{tag}"), **start(f"localhost/{tag}")}
    _run_tests(checkout, f"localhost/{tag}")
    # Each build without a cache leaves a gigabyte of intermediate images.
    subprocess.run(["podman", "image", "prune", "--force"], check=True, capture_output=True)  # noqa: S607
    _write(checkout, record)
    return f"identical twice: {content}\n{record['megabytes']} MB; written to {RESULTS}"


def _built_twice(folder: Path, manifest: BentoManifest, bases: Bases) -> tuple[str, float]:
    first, seconds = _built(folder, manifest, bases)
    second, _ = _built(folder, manifest, bases)
    if first != second:
        raise ReleaseError(f"image: the second build is {second}, expected {first}; report it")
    return first, seconds


def _run_tests(checkout: Path, image: str) -> None:
    home = str(bentoml_home())
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q", *TESTS],
        cwd=checkout,
        env={**os.environ, "CLASSIFIER_TEST_IMAGE": image, "CLASSIFIER_TEST_HOME": home},
    )
    if done.returncode:
        raise ReleaseError("image: a test failed; see above")


def _write(checkout: Path, record: dict[str, Any]) -> None:
    path = checkout / RESULTS
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    document = checkout / DOCUMENT
    document.write_text(with_tables(document.read_text(encoding="utf-8"), path), encoding="utf-8")


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
    (found,) = podman_json("image", "inspect", image)
    content = [found[part] for part in ("RootFS", "Config", "Healthcheck", "Architecture", "Os")]
    return sha256_bytes(json.dumps(content, sort_keys=True).encode()), seconds
