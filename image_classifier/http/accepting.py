"""Spreads connections evenly over the API processes, which share one listening socket.

asyncio (Python 3.11 to 3.14) accepts all waiting connections at once: one of two processes often
gets all connections of a client, and the other core stays idle as long as they live. Here a process
accepts one at a time, and if another one has fewer, leaves it to that one for a moment. A process
that is late accepts as many as it should have meanwhile, so that under overload no client waits.
"""

import asyncio
import fcntl
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

DELAY_S = 0.002
"""Seconds for which a connection is left to a process with fewer connections: about the time that
a busy process takes to look for new ones."""
TURN_S = 0.0005
"""Seconds of an event loop's turn for each of which one waiting connection is accepted."""
COUNT_BYTES = 4

accept_waiting: Any = asyncio.SelectorEventLoop._accept_connection  # type: ignore[attr-defined]


class ConnectionCounts:
    """How many connections each process has, in a file that they map.

    Args:
        folder: Folder that the processes share.
        processes: Number of processes; their places are reused when they end.

    Raises:
        OSError: There is no room for the file.
    """

    def __init__(self, folder: Path, processes: int) -> None:
        # Never closed: that would free the place, which the system does when the process ends.
        self._file = os.open(folder / "connections", os.O_RDWR | os.O_CREAT, 0o600)
        size = processes * COUNT_BYTES
        os.posix_fallocate(self._file, 0, size)  # writing to a mapped hole of a full disk kills
        self._counts = memoryview(mmap.mmap(self._file, size)).cast("i")
        self._place = next(filter(self._take, range(processes)), 0)

    def _take(self, place: int) -> bool:
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place * COUNT_BYTES)
            return True
        return False

    def excess(self, server: Any) -> int:
        """Note the connections of this process's server; return how many more than the least."""
        self._counts[self._place] = own = connections_of(server)
        return own - min(self._counts)


def connections_of(server: Any) -> int:
    """Return the number of open connections of an asyncio server."""
    return len(server._clients) if sys.version_info >= (3, 13) else server._active_count


def spread_connections(counts: Any) -> None:
    """Have the asyncio servers of this process accept one connection at a time.

    Args:
        counts: Has `ConnectionCounts.excess`.
    """

    def accept_one(
        loop: Any, protocol: Any, listening: Any, ssl: Any, server: Any, _: int, *timeouts_s: Any
    ) -> None:
        """Accept a connection. The parameters are those of `accept_waiting`."""

        def accept() -> None:
            if server.is_serving():
                due = max(1, int((loop.time() - begun_s - delay_s) / TURN_S))
                loop._start_serving(protocol, listening, ssl, server, 1, *timeouts_s)
                accept_waiting(loop, protocol, listening, ssl, server, due, *timeouts_s)

        begun_s, delay_s = loop.time(), DELAY_S if counts.excess(server) > 0 else 0.0
        loop._remove_reader(listening.fileno())
        loop.call_later(delay_s, accept)

    asyncio.SelectorEventLoop._accept_connection = accept_one  # type: ignore[attr-defined]
