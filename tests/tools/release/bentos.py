"""A small handwritten bento."""

import json
from pathlib import Path

import yaml

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
