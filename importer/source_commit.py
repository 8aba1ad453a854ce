"""The git commit of a source tree."""

import subprocess
from pathlib import Path


def source_commit(root: Path, *files: str, digits: int = 40) -> str | None:
    """Return the commit of `root`, with "-dirty" if its tracked files differ from it.

    Args:
        files: Restrict "-dirty" to these; they count even if git does not track them.
        digits: Length of the commit's name.

    Returns:
        None outside git.
    """
    untracked = f"--untracked-files={'all' if files else 'no'}"
    try:
        head = _git(root, "rev-parse", f"--short={digits}", "HEAD")
        changed = _git(root, "status", "--porcelain", untracked, "--", *files)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(root: Path, *arguments: str) -> str:
    # Without optional locks: a program that is killed must not leave an index.lock.
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()
