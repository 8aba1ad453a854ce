"""Who imported what with which command, for the import record."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from artifact.manifest import FrozenModel


class Provenance(FrozenModel):
    """How an import came about.

    Attributes:
        command: The command line, as typed after `python`.
        source_commit: Commit of this program; "-dirty" where files differ; None outside git.
        imported_at: UTC, ISO 8601, seconds.
    """

    command: str
    source_commit: str | None
    imported_at: str


def current_provenance(root: Path) -> Provenance:
    """Provenance of the running command; `root` is this program's checkout."""
    return Provenance(
        command=" ".join(sys.argv),
        source_commit=source_commit(root),
        imported_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def source_commit(root: Path) -> str | None:
    """Commit checked out in `root`, with "-dirty" where tracked files differ; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
