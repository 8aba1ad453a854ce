"""Who is let in: a bounded number of requests, and none that would wait too long."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from image_classifier.errors import DeadlineExceeded, Overloaded

MEMORY_S = 1.0
"""Seconds of queueing after which an observation counts 1/e: long enough that one pause of the
machine does not look like a slower model, short enough to follow a change of traffic."""
INITIAL_ANSWERS = 20
"""How many observed answers the measured cost of an image counts for at the start."""

SLOWEST = 1.4
"""How much longer than average one answer in a hundred takes: 101 to 106 ms where the average was
68 to 79 (ResNet-50 int8 at 3 × overload on 2 cores, load generator included)."""


class Admission:
    """Refuses at once what could not be answered in time.

    The time to the answer of a new request is estimated as the requests inside, with itself, times
    the interval between answers at full load (Little's law), and a part for bad luck. The interval
    is time queueing divided by answers given, both forgotten exponentially; it starts as the
    measured cost of an image, and fades back to it while nothing queues, so that one slow moment
    does not shut the door for good. Who leaves unanswered says nothing of the speed: counted as
    an answer, impatient clients would open the door the further the more of them leave.

    Belongs to one event loop; not thread-safe.

    Args:
        max_inside: Requests that may be inside at a time.
        max_wait_ms: Longest estimated time to an answer.
        image_ms: Interval between answers at full load, until it has been observed.
        parallel: Requests that are worked on at a time; up to here none is refused for its time,
            as a model slower than `max_wait_ms` would otherwise answer nobody.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        max_inside: int,
        max_wait_ms: float,
        image_ms: float,
        parallel: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.inside = 0
        self._max_inside = max_inside
        self._max_wait_ms = max_wait_ms
        self._image_ms = image_ms
        self._queueing_ms = image_ms * INITIAL_ANSWERS
        self._answers = float(INITIAL_ANSWERS)
        self._parallel = parallel
        self._clock = clock
        self._last_answer = clock()
        self._queueing = False

    def estimated_wait_ms(self) -> float:
        """Milliseconds until a request admitted now would have its answer."""
        return SLOWEST * (self.inside + 1) * self._queueing_ms / self._answers

    def check(self) -> None:
        """Do nothing where a request would be let in now.

        Raises:
            Overloaded: The places are taken, or the answer would take too long.
        """
        wait_ms = self.estimated_wait_ms()
        too_long = wait_ms > self._max_wait_ms and self.inside >= self._parallel
        if self.inside >= self._max_inside or too_long:
            error = Overloaded("the service is at its capacity; try again later")
            error.retry_after_s = max(1, math.ceil(wait_ms / 1e3))
            raise error

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place for the time of one request; raises as `check` does."""
        self.check()
        self.inside += 1
        finished = True
        try:
            yield
        except (asyncio.CancelledError, DeadlineExceeded):
            finished = False
            raise
        finally:
            self.inside -= 1
            if finished:
                self._observe()
            elif self.inside <= self._parallel:
                self._queueing = False

    def _observe(self) -> None:
        now = self._clock()
        elapsed_s = now - self._last_answer
        # Only intervals in which work was waiting all along tell how fast answers can come.
        if self._queueing:
            elapsed_s = min(elapsed_s, MEMORY_S)  # longer is a pause of the machine
            added_ms, added = elapsed_s * 1e3, 1.0
            kept = math.exp(-elapsed_s / MEMORY_S)
        else:
            kept = math.exp(-elapsed_s / MEMORY_S)
            added = (1 - kept) * INITIAL_ANSWERS
            added_ms = added * self._image_ms
        self._queueing_ms = self._queueing_ms * kept + added_ms
        self._answers = self._answers * kept + added
        self._last_answer = now
        self._queueing = self.inside > self._parallel
