"""Tells the API processes of a server whether one of them hangs."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from image_classifier.inference.announcements import Announcements

INTERVAL_S = 1.0
LATE_S = 5.0
"""Seconds without a beat after which a process counts as hung."""


class Heartbeat:
    """The event loop of each process announces once a second that it works.

    A probe reaches any one of the processes, so each answers for all of them.

    Args:
        folder: Folder that the processes share.
        hangs: Whether the engine of this process hangs.
    """

    def __init__(self, folder: Path, hangs: Callable[[], bool]) -> None:
        self._beats = Announcements(folder, "heartbeat")
        self._hangs = hangs

    def beat(self) -> None:
        """Show that this process works, now and from now on; call it in the event loop."""
        self._beats.announce(0 if self._hangs() else time.monotonic())
        asyncio.get_running_loop().call_later(INTERVAL_S, self.beat)

    def all_work(self) -> bool:
        """Return whether all processes that run have shown lately that they work."""
        latest = time.monotonic() - LATE_S
        for process, seconds in self._beats.times().items():
            if seconds < latest:
                if Path("/proc", str(process)).exists():
                    return False
                self._beats.forget(process)
        return True
