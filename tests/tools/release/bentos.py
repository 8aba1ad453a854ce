"""Bentos for tests: a small one written by hand, and a checkout that real ones are built from."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.imports import PATIENCE_S, ROOT

MODEL_DIGEST = "ab" * 32
MODEL_TAG = f"digits:{MODEL_DIGEST[:16]}"
MODEL = {"tag": MODEL_TAG, "manifest_sha256": MODEL_DIGEST, "evidence_sha256": "cd" * 32}
LOCK = (
    "numpy==2.4.6 ; python_full_version < '3.12' \\\n"
    f"    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{'2' * 64}\n"
    f"pillow==13.0.0 \\\n    --hash=sha256:{'3' * 64}\n"
)
DESCRIPTION = {
    "service": "service:ImageClassifier",
    "name": "image_classifier",
    "version": "draft",
    "creation_time": "2026-01-02T03:04:05+00:00",
    "labels": {},
    "services": [
        {"models": [{"tag": MODEL_TAG, "creation_time": "2026-01-01T00:00:00+00:00"}]},
    ],
    "docker": {"python_version": "3.11"},
    "python": {"requirements_txt": "deploy/requirements/serve-cpu.txt"},
}


def write_bento(root: Path, **changes: object) -> Path:
    """Write a bento as `bentoml build` lays one out; `changes` go into bento.yaml."""
    files = {
        "bento.yaml": yaml.safe_dump({**DESCRIPTION, **changes}),
        "README.md": "read me\n",
        "apis/schema.json": "{}",
        "env/docker/Dockerfile": "FROM scratch\n",
        "env/python/version.txt": "3.11.7",
        "src/service.py": "pass\n",
        "src/model.lock": json.dumps(MODEL),
        "src/deploy/requirements/serve-cpu.txt": LOCK,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def copy_checkout(root: Path, model: Path) -> Path:
    """Copy this checkout and an artifact; the copy's BENTOML_HOME is `home` beside it."""
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "tests")
    shutil.copytree(ROOT, root / "checkout", ignore=unwanted)
    shutil.copytree(model, root / "home" / "models" / model.parent.name / model.name)
    lock = {"tag": f"{model.parent.name}:{model.name}"} | {
        f"{name}_sha256": hashlib.sha256((model / f"{name}.json").read_bytes()).hexdigest()
        for name in ("manifest", "evidence")
    }
    (root / "checkout" / "model.lock").write_text(json.dumps(lock))
    return root / "checkout"


def run(checkout: Path, *words: str, umask: int = 0o022, **variables: str) -> str:
    """Run `python -m` in a copied checkout and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=checkout,
        env={**os.environ, "BENTOML_HOME": str(checkout.with_name("home")), **variables},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        umask=umask,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
