"""The highest rate a server holds within its latency budget, found by bisection."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.record import HighestRate, Run

LEAST_REQUESTS = 250
"""A probe lasts long enough for this many arrivals: 2 of them lie beyond the p99."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What a search knows.

    Attributes:
        passed_per_s: Highest rate that passed below all that failed; 0 before any did.
        failed_per_s: Lowest rate that failed; None before any did.
        ceiling_per_s: Assumed to fail, without a probe.
    """

    passed_per_s: float
    failed_per_s: float | None
    ceiling_per_s: float

    @property
    def upper_per_s(self) -> float:
        """Lowest rate that failed or is assumed to."""
        failed_per_s = self.ceiling_per_s if self.failed_per_s is None else self.failed_per_s
        return min(failed_per_s, self.ceiling_per_s)


def within_budget(run: Run, budget_ms: float) -> bool:
    """A rate passes when nothing failed, nothing was wrong and the p99 is in the budget."""
    return run.failures == 0 and run.wrong == 0 and run.percentile_ms(99) <= budget_ms


def known_from(runs: Iterable[Run], *, budget_ms: float, ceiling_per_s: float) -> Bracket:
    """What open runs with enough requests say already; a failed rate goes before a passed one."""
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
        ceiling_per_s=ceiling_per_s,
    )


def bisect(
    passes: Callable[[float], bool],
    *,
    known: Bracket,
    resolution_per_s: float,
    most_probes: int | None = None,
) -> Bracket:
    """Halve the interval between the highest passed and the lowest failed rate.

    Every rate is probed once. A failed rate is not tried again, so luck works both ways: the
    spread between rounds, not the best of them, tells how sure the number is.

    Args:
        passes: Probes one rate, in requests per second.
        known: Where the search begins.
        resolution_per_s: The search ends when the interval is no wider.
        most_probes: It ends after this many at the latest; None is no limit.
    """
    probes = 0
    while known.upper_per_s - known.passed_per_s > resolution_per_s and probes != most_probes:
        rate_per_s = round((known.passed_per_s + known.upper_per_s) / 2, 2)
        probes += 1
        passed = passes(rate_per_s)
        known = Bracket(
            passed_per_s=rate_per_s if passed else known.passed_per_s,
            failed_per_s=known.failed_per_s if passed else rate_per_s,
            ceiling_per_s=known.ceiling_per_s,
        )
    return known


def probe_duration_s(rate_per_s: float, *, usual_s: float, longest_s: float) -> float:
    """Longer than usual where the rate is so low that the p99 would be the slowest of few."""
    return min(max(usual_s, LEAST_REQUESTS / rate_per_s), longest_s)


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
