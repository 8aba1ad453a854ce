"""Admission of requests: a bounded number, and none that would wait too long.

docs/admission.md explains the rule and compares it, by simulation, with two others.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_classifier.errors import DeadlineExceeded, Overloaded
from image_classifier.inference.announcements import Announcements
from image_classifier.logs import logger

MEMORY_S = 1.0
"""Time constant, in seconds of full load, of the observed interval: long enough that a pause of the
machine does not look like a slower model, short enough to follow a change of traffic."""
INITIAL_ANSWERS = 20
"""Number of observed answers that the initial interval counts for."""
BURST_S = 0.5
COUNT_S = 0.75
CALM_S = 2.0
STANDING_S = 3.0
"""Overload begins once the wait has been too long for BURST_S, in which a burst may arrive, and
too many requests arrive in the next COUNT_S, or a few too many until STANDING_S. It ends after
CALM_S with few enough requests."""
TOO_MANY = 1.2
"""Arrivals divided by possible answers, above which overload begins. Chosen by simulation, like the
seconds above (docs/admission.md)."""
FEW_ENOUGH = 0.9
"""The same ratio, below which overload ends; with a ratio near 1 it would often end by chance."""
GROWTH = 0.03
"""Growth of the queue until STANDING_S, as a share of the arrivals, that begins overload. A fixed
number of clients who wait for their answers stays below it."""


class Admission:
    """Admits requests, and drops some while they wait.

    A request may wait up to `max_wait_ms` before work on it begins, so bursts are answered.
    During overload it may wait for the duration of two answers, within `overload_wait_range_ms`,
    which keeps the service busy. Overload begins when the estimated wait stays longer than that
    while more requests arrive than can be answered: many more in a moment, or a few more for
    longer. The queue of a single burst does not begin it, nor do clients who each wait for an
    answer before their next request.

    Overload ends when a tenth fewer requests arrive than can be answered, and no other API process
    is overloaded: a load balancer, or a client with another connection, resends here what another
    process refuses. For the same reason a wait that is too long is overload here while another
    process is overloaded.

    The wait is estimated as the number of queued requests times the interval between answers at
    full load. The interval is the time during which `parallel` requests or more were in flight,
    divided by the answers in that time, both with exponential decay. It starts as
    `answer_interval_ms`, and returns to it while fewer are in flight (not during overload), so a
    slow moment has no lasting effect. Disconnected clients are not counted as answers: otherwise
    the service would look faster the more of them leave.

    Belongs to one event loop; not thread-safe, except for `Reservation`.

    Args:
        max_in_flight: Maximum number of requests in flight.
        max_wait_ms: Longest wait of an accepted request.
        overload_wait_range_ms: Least and greatest limit of the wait during overload.
        answer_interval_ms: Interval between answers at full load, until it has been observed.
        parallel: Number of requests worked on concurrently. Up to this number none is refused or
            dropped for its wait, so that a model slower than the longest wait still answers.
        shared_folder: Where the API processes of a server announce overload; None if there is
            only one.
        clock: Monotonic seconds, the same in all processes.
    """

    def __init__(
        self,
        *,
        max_in_flight: int,
        max_wait_ms: float,
        overload_wait_range_ms: tuple[float, float],
        answer_interval_ms: float,
        parallel: int,
        shared_folder: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.in_flight = 0
        self.overloaded = False
        self.clock = clock
        self._max_in_flight = max_in_flight
        self._max_wait_ms = max_wait_ms
        self._least_overload_wait_ms, self._overload_wait_ms = overload_wait_range_ms
        self._answer_interval_ms = answer_interval_ms
        self._parallel = parallel
        self._overloads = Announcements(shared_folder, "overloaded") if shared_folder else None
        self._busy_ms = answer_interval_ms * INITIAL_ANSWERS
        self._answers = float(INITIAL_ANSWERS)
        self._last_answer = clock()
        self._busy_since: float | None = None  # since when all of `parallel` have been in work
        self._offered = self._joined = self._left = 0
        self._since = self._long_since = clock()  # begin of the count; of a wait that is too long
        self._recent_refusals = 0.0
        self._last_refusal = clock()

    @property
    def wait_limit_ms(self) -> float:
        """Current limit of the wait of an accepted request."""
        return self._overload_limit_ms() if self.overloaded else self._max_wait_ms

    def estimated_wait_ms(self) -> float:
        """Estimate how long the next request would wait before work on it begins."""
        return max(0, self.in_flight + 1 - self._parallel) * self._interval_ms()

    def refuse_if_overloaded(self) -> None:
        """Raise an error if a request cannot be admitted.

        Raises:
            Overloaded: Too many requests are in flight, or the request would wait too long.
        """
        self._judge()
        if self.in_flight >= self._max_in_flight:
            limit = f"{self._max_in_flight} in flight are allowed (CLASSIFIER_MAX_QUEUE)"
        elif self.estimated_wait_ms() > self.wait_limit_ms:
            limit = self._described_wait_limit()
        else:
            return
        self._offered += 1
        self._joined += 1
        error = Overloaded("the service is at its capacity; try again later")
        self._note_refusal(error, limit)
        raise error

    @contextmanager
    def reserve(self) -> Iterator["Reservation"]:
        """Admit a request for the duration of the block.

        Raises:
            Overloaded: See `refuse_if_overloaded`; or the request was dropped after waiting too
                long.
        """
        self.refuse_if_overloaded()
        waits = self.in_flight >= self._parallel
        self._offered += 1
        self._joined += 1
        self.in_flight += 1
        if self._busy_since is None and self.in_flight >= self._parallel:
            self._busy_since = self.clock()
        answered = True
        try:
            yield Reservation(self, self.clock() if waits else math.inf)
        except Overloaded as error:
            answered = False
            self._note_refusal(error, self._described_wait_limit())
            raise
        except (asyncio.CancelledError, DeadlineExceeded):
            answered = False
            raise
        finally:
            self.in_flight -= 1
            self._left += 1
            if answered:
                self._observe()
            elif self.in_flight < self._parallel:
                self._busy_since = None
            self._judge()

    def _interval_ms(self) -> float:
        return self._busy_ms / self._answers

    def _overload_limit_ms(self) -> float:
        two_answers_ms = 2 * self._interval_ms()
        return min(self._overload_wait_ms, max(self._least_overload_wait_ms, two_answers_ms))

    def _observe(self) -> None:
        now = self.clock()
        if self._busy_since is not None:
            # Longer times are pauses of the machine.
            elapsed_s = min(now - self._busy_since, MEMORY_S)
            kept = math.exp(-elapsed_s / MEMORY_S)
            added_ms, added = elapsed_s * 1e3, 1.0
        else:
            # Not to the initial interval during overload: if that is longer, it would not end.
            interval_ms = self._interval_ms() if self.overloaded else self._answer_interval_ms
            kept = math.exp(-(now - self._last_answer) / MEMORY_S)
            added = (1 - kept) * INITIAL_ANSWERS
            added_ms = added * interval_ms
        self._busy_ms = self._busy_ms * kept + added_ms
        self._answers = self._answers * kept + added
        self._last_answer = now
        self._busy_since = now if self.in_flight >= self._parallel else None

    def _judge(self) -> None:
        """Begin or end overload."""
        now = self.clock()
        elapsed_s = now - self._since
        if self.overloaded:
            if elapsed_s >= CALM_S:
                if self._load(elapsed_s) >= FEW_ENOUGH:
                    self._announce_overload(now)
                elif not self._overloaded_elsewhere(now):
                    self.overloaded, self._long_since = False, now
                    logger.warning("overload ended: %d requests in flight", self.in_flight)
                self._offered, self._since = 0, now
        elif self.estimated_wait_ms() <= self._overload_limit_ms():
            self._long_since = self._since = now
        elif now - self._long_since < BURST_S:
            self._since = now
            self._offered = self._joined = self._left = 0
        elif now - self._long_since >= STANDING_S:
            if self._joined - self._left > max(GROWTH * self._joined, 2 * self._parallel):
                self._begin_overload(now)
            self._long_since, self._joined, self._left = now - BURST_S, 0, 0
        elif elapsed_s >= COUNT_S:
            if self._load(elapsed_s) > TOO_MANY or self._overloaded_elsewhere(now):
                self._begin_overload(now)
            self._offered, self._since = 0, now

    def _load(self, seconds: float) -> float:
        """Return the number of arrivals divided by the number of possible answers."""
        return self._offered * self._interval_ms() / (seconds * 1e3)

    def _begin_overload(self, now: float) -> None:
        self.overloaded = True
        self._offered, self._since = 0, now
        self._announce_overload(now)
        logger.warning(
            "overload began: %d requests in flight, estimated wait %.0f ms; "
            "until it ends requests wait at most %g ms (CLASSIFIER_OVERLOAD_WAIT_MS)",
            self.in_flight,
            self.estimated_wait_ms(),
            self._overload_limit_ms(),
        )

    def _announce_overload(self, now: float) -> None:
        if self._overloads is not None:
            self._overloads.announce(now)

    def _overloaded_elsewhere(self, now: float) -> bool:
        """Return whether another process has announced overload since its last decision."""
        return self._overloads is not None and any(
            process != os.getpid() and now - seconds < 1.5 * CALM_S
            for process, seconds in self._overloads.times().items()
        )

    def _described_wait_limit(self) -> str:
        setting = "OVERLOAD_WAIT_MS" if self.overloaded else "MAX_WAIT_MS"
        return f"waits up to {self.wait_limit_ms:g} ms are allowed (CLASSIFIER_{setting})"

    def _note_refusal(self, error: Overloaded, limit: str) -> None:
        """Count a refusal; set its numbers and when the client may try again."""
        now = self.clock()
        kept = math.exp(-(now - self._last_refusal) / MEMORY_S)
        self._recent_refusals = self._recent_refusals * kept + 1
        self._last_refusal = now
        # Serving the requests in flight and all recently refused ones takes this long.
        backlog = self.in_flight + self._recent_refusals
        error.retry_after_s = max(1, math.ceil(backlog * self._interval_ms() / 1e3))
        wait_ms = self.estimated_wait_ms()
        error.numbers = f"{limit}; {self.in_flight} in flight, estimated wait {wait_ms:.0f} ms"


@dataclass(frozen=True, slots=True)
class Reservation:
    """An admitted request. Thread-safe.

    Attributes:
        since: When the request began to wait, in seconds of the admission's clock; infinite if
            work on it could begin at once, so that it never expires.
    """

    admission: Admission
    since: float

    def refuse_if_expired(self) -> None:
        """Raise an error if the request has waited longer than the current limit.

        Raises:
            Overloaded: The request has waited too long.
        """
        waited_s = self.admission.clock() - self.since
        if waited_s * 1e3 > self.admission.wait_limit_ms:
            raise Overloaded("the request waited too long; try again later")
