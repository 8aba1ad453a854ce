"""The streams of an engine: one for each caller, or all for one that is alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
    def hold(self, *, all_if_free: bool) -> Iterator[bool]:
        """Wait for a stream and hold it; say whether it is all of them.

        Args:
            all_if_free: Take all streams where none is in use. Who comes meanwhile waits.
        """
        with self._freed:
            self._freed.wait_for(lambda: self._free)
            all_held = all_if_free and self._free == self._count
            taken = self._count if all_held else 1
            self._free -= taken
        try:
            yield all_held
        finally:
            with self._freed:
                self._free += taken
                self._freed.notify(taken)
