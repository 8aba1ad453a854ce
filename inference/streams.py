"""The streams of an engine: one for each caller, or all for one that is alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Alone = Callable[[], bool]
"""Whether nothing else is known to come; asked once, when it is a caller's turn."""


class Streams:
    """Hands out streams; thread-safe.

    Args:
        count: Streams there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, alone: Alone) -> Iterator[bool]:
        """Wait for a stream and hold it; say whether it is all of them.

        Args:
            alone: Take all streams where none is in use and this is so. Who comes meanwhile
                waits.
        """
        with self._freed:
            self._freed.wait_for(lambda: self._free)
            all_held = alone() and self._free == self._count
            taken = self._count if all_held else 1
            self._free -= taken
        try:
            yield all_held
        finally:
            with self._freed:
                self._free += taken
                self._freed.notify(taken)
