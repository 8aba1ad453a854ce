"""Tells the API processes of a server whether one of them hangs."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PREFIX = "heartbeat."
"""Prefix of a process's file in the shared folder; its process id follows."""
INTERVAL_S = 1.0
LATE_S = 5.0
"""Seconds without a beat after which a process counts as hung."""


class Heartbeat:
    """A file of each process, whose time of change its event loop sets once a second.

    A probe reaches any one of the processes, so each answers for all of them. Times are monotonic
    seconds, which all processes share. Setting a time needs no room on the disk.

    Args:
        folder: Folder that the processes share.
        hangs: Whether the engine of this process hangs.
    """

    def __init__(self, folder: Path, hangs: Callable[[], bool]) -> None:
        self._folder = folder
        self._file = folder / f"{PREFIX}{os.getpid()}"
        self._hangs = hangs
        with suppress(OSError):  # the disk may be full; the others then watch this one in vain
            self._file.touch()

    def beat(self) -> None:
        """Show that this process works, now and from now on; call it in the event loop."""
        seconds = 0.0 if self._hangs() else time.monotonic()
        with suppress(OSError):
            os.utime(self._file, (seconds, seconds))
        asyncio.get_running_loop().call_later(INTERVAL_S, self.beat)

    def all_work(self) -> bool:
        """Return whether all processes that run have shown lately that they work."""
        latest = time.monotonic() - LATE_S
        with suppress(OSError):  # at the limit of open files; or a process has just been replaced
            for file in self._folder.glob(f"{PREFIX}*"):
                if file.stat().st_mtime < latest:
                    if Path("/proc", file.name.removeprefix(PREFIX)).exists():
                        return False
                    file.unlink()
        return True
