"""Create or update a virtual environment from a hash-pinned requirement lock.

    python3 tools/environment.py VENV LOCK

It uses the standard library only, because it runs before anything is installed. The environment
keeps a copy of the lock it was installed from; while that equals LOCK, nothing is done.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHONS = ((3, 11), (3, 14))
"""The oldest supported Python, and the first that is too new."""
INSTALLED = ".installed"
"""Name of the copy of the lock inside the environment."""
FROM_LOCK = ("--no-deps", "--require-hashes", "--only-binary=:all:", "-r")
"""The lock is complete. With dependencies, pip would look for a newer `coverage[toml]`."""
PIP_INSTALL = (
    *("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"),
    *FROM_LOCK,
)
UV_INSTALL = ("-m", "uv", "pip", "install", "--compile-bytecode", *FROM_LOCK)


def set_up(venv: Path, lock: Path) -> None:
    """Make the environment hold what the lock names, and report each step in a line.

    Raises:
        SystemExit: A step failed; what pip printed says why.
    """
    installed = venv / INSTALLED
    before = installed.read_text() if installed.is_file() else ""
    wanted = lock.read_text()
    if before == wanted:
        return
    started = time.monotonic()
    python = str(venv / "bin" / "python")
    if not _works([python, "-m", "pip", "--version"]):
        _create(venv)
    installed.unlink(missing_ok=True)
    names = _names(wanted)
    print(f"[2/2] installing {len(names)} packages of {lock}", flush=True)
    if not _run_uv(python, lock):
        _run_pip(python, *PIP_INSTALL, str(lock))
    if removed := sorted(_names(before) - names):
        print(f"      removing {', '.join(removed)}, which the lock does not name", flush=True)
        _run_pip(python, "-m", "pip", "uninstall", "--quiet", "--yes", *removed)
    installed.write_text(wanted)
    print(f"ready: {venv}, {len(names)} packages, {time.monotonic() - started:.0f} s", flush=True)


def _create(venv: Path) -> None:
    found = ".".join(str(part) for part in sys.version_info[:2])
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        sys.exit(f"setup: Python is {found}, expected 3.11 to 3.13; set PYTHON=python3.12")
    print(f"[1/2] creating {venv} with Python {found}", flush=True)
    if not _works([sys.executable, "-m", "venv", "--clear", str(venv)]):
        sys.exit("setup: Python has no venv; on Debian and Ubuntu: apt-get install python3-venv")


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0  # noqa: S603
    except OSError:
        return False


def _names(lock: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE))


def _run_uv(python: str, lock: Path) -> bool:
    """Install by uv, which takes a third of pip's time, if the lock names it and it can.

    It may not: uv does not read pip's configuration, where a company's mirror may be named.
    """
    pinned = re.search(r"^uv==(.+\\\n)*.+\n", lock.read_text(), re.MULTILINE)
    if not pinned:
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
        only_uv.write(pinned[0])
        only_uv.flush()
        _run_pip(python, *PIP_INSTALL, only_uv.name, "--quiet")
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [python, *UV_INSTALL, str(lock), "--python", python, *quiet]
    if subprocess.run(command).returncode:  # noqa: S603
        print("      uv could not; set UV_DEFAULT_INDEX to name a mirror. Now by pip", flush=True)
        return False
    return True


def _run_pip(*words: str) -> None:
    status = subprocess.run(words).returncode  # noqa: S603
    if status:
        sys.exit(f"setup: pip failed with status {status}, see above")


if __name__ == "__main__":
    set_up(Path(sys.argv[1]), Path(sys.argv[2]))
