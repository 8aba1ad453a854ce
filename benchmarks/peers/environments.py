"""One virtual environment a peer, made from its pinned requirements."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from preprocessing.errors import OperatorError

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
STAMP = "requirements.sha256"
INSTALL_WITHIN_S = 1200


class EnvironmentUnavailable(OperatorError):
    """The peer cannot be installed on this machine; its row in the report says why."""


def environment_python(name: str, folder: Path, interpreter: str | None) -> Path:
    """The Python of the environment, made or renewed where its requirements changed.

    Args:
        name: Of the requirement file.
        folder: Where environments live, outside version control.
        interpreter: What to make it with; None is the running one.

    Raises:
        EnvironmentUnavailable: Creation or installation failed.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    home = folder / name
    python = home / "bin" / "python"
    stamp = home / STAMP
    if stamp.exists() and stamp.read_text() == digest:
        return python
    _uv(name, "venv", "--clear", "--python", interpreter or sys.executable, str(home))
    _uv(name, "pip", "install", "--python", str(python), "-r", str(requirements))
    stamp.write_text(digest)
    return python


def installed_versions(python: Path | str) -> dict[str, str]:
    """Distribution name to version, as the environment itself says."""
    script = (
        "import importlib.metadata as m, json, platform;"
        "v = {d.metadata['Name'].lower(): d.version for d in m.distributions()};"
        "print(json.dumps({'python': platform.python_version(), **v}))"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _uv(name: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "uv", "--quiet", *arguments]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN_S
        )
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no output"])[-1].strip()
        raise EnvironmentUnavailable(
            f"{name}: `uv {arguments[0]}` failed: {last_line[:200]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailable(
            f"{name}: `uv {arguments[0]}` took more than {INSTALL_WITHIN_S} s"
        ) from error
