"""Times that the API processes of a server tell each other."""

import os
from contextlib import suppress
from pathlib import Path


class Announcements:
    """The time that each process announced last, kept as the time of change of a file.

    Setting it needs neither room on the disk nor a free file descriptor, once the file is there.
    Without either, a process announces or sees nothing, and decides alone.

    Args:
        folder: Folder that the processes share.
        name: What is announced; the files are `NAME.PROCESS`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def announce(self, seconds: float) -> None:
        """Announce a time of a clock that all processes share."""
        own = self._file(os.getpid())
        with suppress(OSError):
            if not own.exists():
                own.touch()
            os.utime(own, (seconds, seconds))

    def times(self) -> dict[int, float]:
        """Return the seconds that each process announced last, by process id."""
        with suppress(OSError):  # also if a file has just been removed
            return {
                int(file.suffix[1:]): file.stat().st_mtime
                for file in self._folder.glob(f"{self._name}.*")
            }
        return {}

    def forget(self, process: int) -> None:
        """Remove what a process announced."""
        with suppress(OSError):
            self._file(process).unlink()

    def _file(self, process: int) -> Path:
        return self._folder / f"{self._name}.{process}"
