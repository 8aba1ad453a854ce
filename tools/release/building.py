"""Build a reproducible bento in BentoML's store, and find bentos there."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from image_classifier.artifact.format import SERVING_REQUIREMENTS_NAME
from importer.progress import Progress
from preprocessing.errors import OperatorError
from tools.release import ReleaseError
from tools.release.content import BENTO_YAML, bento_tag, locked_model, read_description
from tools.release.sealing import commit_of_packed, seal, verify_bento
from tools.release.starting import start_once

BENTOFILE = "bentofile.yaml"


def bentoml_home() -> Path:
    """Return the directory of BentoML's stores."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")


def build_bento(checkout: Path, bentofile: str, progress: Progress, *, start: bool) -> Path:
    """Build the bento of a checkout, move it into the store and return its directory.

    Args:
        checkout: Directory with service.py and model.lock.
        bentofile: Path of the bentofile, relative to `checkout`.
        start: Whether to start the bento once, see `start_once`.

    `bentoml build` does the work, in a staging store that links to the real models, so the content
    is that of a plain build. A requirement lock that came with the model
    (--serving-requirements) replaces the project's. A bento of the same version that is already in
    the store stays, unless it is damaged.
    """
    home = bentoml_home()
    home.mkdir(parents=True, exist_ok=True)
    # Inside `home`: the finished bento can only be renamed within a file system.
    with tempfile.TemporaryDirectory(dir=home, prefix=".image-classifier-bento-") as folder:
        staging = Path(folder)
        (staging / "models").symlink_to(home / "models")
        with progress.step("build the bento"):
            _bentoml_build(checkout, staging, bentofile)
        (root,) = (staging / "bentos").glob("*/staged")
        own_lock = home / locked_model(root / "src") / SERVING_REQUIREMENTS_NAME
        if own_lock.is_file():
            name = read_description(root)["python"]["requirements_txt"]
            for path in (root / "src" / name, root / "env" / "python" / "requirements.txt"):
                shutil.copyfile(own_lock, path)
        seal(root, commit_of_packed(checkout, root))
        if start:
            start_once(root, staging, progress)
        final = home / "bentos" / bento_tag(root).replace(":", "/")
        try:
            verify_bento(final)
        except OperatorError:  # there is none, or it is damaged
            shutil.rmtree(final, ignore_errors=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            root.rename(final)
    (final.parent / "latest").write_text(final.name)
    return final


def _bentoml_build(checkout: Path, home: Path, bentofile: str) -> None:
    # BentoML's description of the service would contain some settings and the number of GPUs.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLASSIFIER_", "BENTOML_"))}
    fixed = {"CUDA_VISIBLE_DEVICES": "", "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "bentoml", "build", "-f", bentofile, "--version", "staged"],
        cwd=checkout,
        env={**kept, **fixed},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no output"]
        raise ReleaseError(f"{checkout}: bentoml build failed: {lines[-1]}")


def find_bento(path_or_tag: str) -> Path:
    """Return the directory of a bento, given by path or by tag.

    Raises:
        ReleaseError: Neither exists.
    """
    path = Path(path_or_tag)
    if (path / BENTO_YAML).is_file():
        return path.resolve()
    name, _, version = path_or_tag.partition(":")
    store = bentoml_home() / "bentos"
    if version in ("", "latest"):
        latest = store / name / "latest"
        version = latest.read_text() if latest.is_file() else "latest"
    found = store / name / version
    if not (found / BENTO_YAML).is_file():
        raise ReleaseError(
            f"{path_or_tag}: neither a directory with {BENTO_YAML} nor a bento in {store}; run "
            "`make bento`"
        )
    return found
