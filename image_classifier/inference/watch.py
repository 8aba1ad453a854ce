"""Notices an engine that no longer answers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STALLED_S = 8.0
"""Seconds after which a run of the engine counts as hung: longer than a request may take by
default (CLASSIFIER_TIMEOUT_MS), and short enough for /livez to tell within 10 s."""


class EngineWatch:
    """Watches the runs of an engine. Thread-safe.

    Args:
        stalled_s: Seconds after which a run counts as hung.
        clock: Monotonic seconds.

    Attributes:
        failing: The last run that ended failed, perhaps because of its input alone.
    """

    def __init__(
        self, stalled_s: float = STALLED_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failing = False
        self._stalled_s = stalled_s
        self._clock = clock
        self._started: dict[object, float] = {}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Watch one run: the block."""
        run = object()
        self._started[run] = self._clock()
        try:
            yield
        except Exception:
            self.failing = True
            raise
        else:
            self.failing = False
        finally:
            del self._started[run]

    @property
    def stalled(self) -> bool:
        """Whether a run has been going on for too long."""
        oldest = min(self._started.copy().values(), default=None)
        return oldest is not None and self._clock() - oldest > self._stalled_s
