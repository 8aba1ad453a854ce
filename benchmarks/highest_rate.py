"""The highest rate a server holds within its latency budget, found by geometric bisection."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks.record import HighestRate, Run

LEAST_REQUESTS = 300
"""Arrivals a probe should have: 3 of them lie beyond the p99."""
EXPECTED_REQUESTS = 350
"""Arrivals it is made long enough for: Poisson, so fewer than 300 come once in 250 probes."""
FLOOR_PART = 0.1
"""Of the saturated throughput, the least rate that is looked for: with a relative resolution a
search has to begin above zero."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What a search knows.

    Attributes:
        passed_per_s: Highest rate that passed below all that failed; 0 before any did.
        failed_per_s: Lowest rate that failed; None before any did.
        ceiling_per_s: Assumed to fail, without a probe.
        floor_per_s: Where the search begins, though no probe has passed there.
    """

    passed_per_s: float
    failed_per_s: float | None
    ceiling_per_s: float
    floor_per_s: float

    @property
    def lower_per_s(self) -> float:
        """Highest rate that passed, or the floor."""
        return max(self.passed_per_s, self.floor_per_s)

    @property
    def upper_per_s(self) -> float:
        """Lowest rate that failed or is assumed to."""
        failed_per_s = self.ceiling_per_s if self.failed_per_s is None else self.failed_per_s
        return min(failed_per_s, self.ceiling_per_s)


def within_budget(run: Run, budget_ms: float) -> bool:
    """A rate passes when nothing failed, nothing was wrong and the p99 is in the budget.

    A run that was given up was certain not to.
    """
    whole = run.failures == 0 and run.wrong == 0 and not run.given_up
    return whole and run.percentile_ms(99) <= budget_ms


def allowed_late(requests: int) -> int:
    """Of so many requests, those that may be late with a nearest-rank p99 still in the budget."""
    return requests - math.ceil(0.99 * requests)


def known_from(runs: Iterable[Run], *, budget_ms: float, saturated_per_s: float) -> Bracket:
    """What open runs with enough requests say already; a failed rate goes before a passed one.

    Args:
        saturated_per_s: Throughput of the closed loop: at that rate a queue only grows.
    """
    passed: list[float] = []
    failed: list[float] = []
    for run in runs:
        if run.offered_rate_per_s is None or len(run.send_skew_ms) < LEAST_REQUESTS:
            continue
        rates = passed if within_budget(run, budget_ms) else failed
        rates.append(run.offered_rate_per_s)
    lowest_failed = min(failed, default=None)
    return Bracket(
        passed_per_s=max(
            (rate for rate in passed if lowest_failed is None or rate < lowest_failed), default=0.0
        ),
        failed_per_s=lowest_failed,
        ceiling_per_s=saturated_per_s,
        floor_per_s=FLOOR_PART * saturated_per_s,
    )


def bisect(
    passes: Callable[[float], bool], *, known: Bracket, resolution: float, most_probes: int
) -> Bracket:
    """Halve, on a logarithmic scale, the interval between a passed and a failed rate.

    Every server begins with the same multiples of its own throughput, so after the same number of
    probes every rate is known to the same part of itself. Every rate is probed once. A failed rate
    is not tried again, so luck works both ways.

    Args:
        passes: Probes one rate, in requests per second.
        known: Where the search begins.
        resolution: The search ends when the failed rate is at most this multiple of the passed one.
        most_probes: It ends after this many at the latest.
    """
    for _ in range(most_probes):
        if known.upper_per_s <= resolution * known.lower_per_s:
            break
        rate_per_s = round(math.sqrt(known.lower_per_s * known.upper_per_s), 2)
        if passes(rate_per_s):
            known = replace(known, passed_per_s=rate_per_s)
        else:
            known = replace(known, failed_per_s=rate_per_s)
    return known


def probe_duration_s(rate_per_s: float, *, usual_s: float, longest_s: float) -> float:
    """Longer than usual where the rate is so low that the p99 would be the slowest of few."""
    return min(max(usual_s, EXPECTED_REQUESTS / rate_per_s), longest_s)


def as_record(bracket: Bracket, run: Run, *, budget_ms: float, rule: str) -> HighestRate:
    """The result of a search, under the names of one of its runs."""
    return HighestRate(
        server=run.server,
        model=run.model,
        images=run.images,
        round=run.round,
        rate_per_s=bracket.passed_per_s,
        first_failed_rate_per_s=bracket.failed_per_s,
        budget_ms=budget_ms,
        rule=rule,
    )
