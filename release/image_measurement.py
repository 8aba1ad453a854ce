"""Sizes of an image's layers, and how long a locked-down container of it takes to be ready."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

from release.errors import ReleaseError

STEPS = {
    "imported from tarball": "base",
    "/app/venv": "packages",
    "./models": "model",
    "./src": "code",
}
"""What podman says of a layer, and what is in it."""
PORT = 13_998
START_S = 60


def podman_json(*arguments: str) -> Any:
    """What a podman command answers as JSON."""
    done = subprocess.run(["podman", *arguments], check=True, capture_output=True, text=True)  # noqa: S603, S607
    return json.loads(done.stdout)


def sizes(image: str) -> dict[str, Any]:
    """Bytes of each layer, from the bottom, and sums in MB, uncompressed."""
    history = podman_json("history", "--human=false", "--no-trunc", "--format=json", image)
    layers = [
        {"step": _step_name(entry["CreatedBy"]), "bytes": entry["size"]}
        for entry in reversed(history)
        if entry["size"]
    ]
    total = sum(layer["bytes"] for layer in layers)
    model = sum(layer["bytes"] for layer in layers if layer["step"] == "model")
    return {
        "megabytes": round(total / 1e6, 1),
        "megabytes_beside_the_model": round((total - model) / 1e6, 1),
        "layers": layers,
    }


def _step_name(created_by: str) -> str:
    for part, name in STEPS.items():
        if part in created_by:
            return name
    return "base" if "ADD file" in created_by else "description"


def start(image: str) -> dict[str, float]:
    """Seconds to readiness and MB of memory then, locked down with 512 MB.

    Raises:
        ReleaseError: It does not become ready.
    """
    options = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--memory", "512m"]  # noqa: S108
    options += ["--network", "host", "--env", f"BENTOML_PORT={PORT}"]
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603
        ["podman", "run", "--detach", *options, image],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    name = done.stdout.strip()
    try:
        while not _is_ready():
            if time.monotonic() - started > START_S:
                raise ReleaseError(f"{image}: not ready within {START_S} s; see podman logs {name}")
            time.sleep(0.05)
        seconds = time.monotonic() - started
        (stats,) = podman_json("stats", "--no-stream", "--format=json", name)
    finally:
        subprocess.run(["podman", "rm", "--force", name], check=True, capture_output=True)  # noqa: S603, S607
    used = stats["mem_usage"].partition("MB")[0]
    return {"ready_seconds": round(seconds, 1), "memory_megabytes": float(used)}


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
