"""From a checkout to a sealed bento in BentoML's store."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from release.content import read_description
from release.errors import ReleaseError
from release.manifest import BentoManifest, read_manifest
from release.sealing import seal, source_commit
from release.verification import verify_bento

DRAFT_VERSION = "draft"
BENTOFILE = "bentofile.yaml"


def bentoml_home() -> Path:
    """The directory BentoML keeps its stores in."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")


def build_bento(checkout: Path, bentofile: str = BENTOFILE) -> tuple[BentoManifest, Path]:
    """Build the bento of a checkout and put it into the store in one step.

    Args:
        checkout: Directory with service.py, model.lock and the bentofile.

    Returns:
        The manifest, and the bento's directory.

    A plain `bentoml build` does the work, in a home of its own that borrows the models: its
    content and ours cannot differ. Nothing half-built becomes visible.
    """
    home = bentoml_home()
    with _draft_home(home) as draft:
        _bentoml_build(checkout, draft, bentofile)
        (root,) = (draft / "bentos").glob(f"*/{DRAFT_VERSION}")
        manifest = seal(root, source_commit(checkout, root))
        final = home / "bentos" / manifest.name / manifest.version
        if final.exists():
            verify_bento(final)
            return read_manifest(final), final
        final.parent.mkdir(parents=True, exist_ok=True)
        root.rename(final)
    (final.parent / "latest").write_text(manifest.version)
    return manifest, final


@contextmanager
def _draft_home(home: Path) -> Iterator[Path]:
    draft = home / f".image-classifier-bento-{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        (draft / "models").symlink_to(home / "models")
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _bentoml_build(checkout: Path, home: Path, bentofile: str) -> None:
    # The operator's settings belong to the serving process: some of them show in BentoML's
    # description of the service.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLASSIFIER_", "BENTOML_"))}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "bentoml", "build", "-f", bentofile, "--version", DRAFT_VERSION],
        cwd=checkout,
        env={**kept, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no output"]
        raise ReleaseError(f"{checkout}: bentoml build failed: {lines[-1]}; correct it and repeat")


def find_bento(path_or_tag: str) -> Path:
    """Directory of a bento given as a path or as a tag of the store.

    Raises:
        ReleaseError: Neither is there.
    """
    path = Path(path_or_tag)
    if path.is_dir():
        read_description(path)
        return path.resolve()
    name, _, version = path_or_tag.partition(":")
    folder = bentoml_home() / "bentos" / name
    if version in ("", "latest"):
        latest = folder / "latest"
        version = latest.read_text() if latest.is_file() else "latest"
    if not (folder / version).is_dir():
        raise ReleaseError(
            f"{path_or_tag}: neither a directory nor a bento in {folder.parent}; run `make bento`"
        )
    return folder / version
