"""The highest rate a server holds within its latency budget, found by bisection."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.record import HighestRate, Run

LEAST_REQUESTS = 300
"""A probe lasts long enough for this many arrivals: 3 of them lie beyond the p99."""

LONGEST_PROBE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What a search knows.

    Attributes:
        passed_per_s: Highest rate that passed; 0 before any did.
        failed_per_s: Lowest rate that failed; None before any did.
    """

    passed_per_s: float
    failed_per_s: float | None


def within_budget(run: Run, budget_ms: float) -> bool:
    """A rate passes when nothing failed, nothing was wrong and the p99 is in the budget."""
    return run.failures == 0 and run.wrong == 0 and run.percentile_ms(99) <= budget_ms


def bisect(
    passes: Callable[[float], bool], *, ceiling_per_s: float, resolution_per_s: float
) -> Bracket:
    """Halve the interval between the highest passed and the lowest failed rate.

    Every rate is probed once. A failed rate is not tried again, so luck works both ways: the
    spread between rounds, not the best of them, tells how sure the number is.

    Args:
        passes: Probes one rate, in requests per second.
        ceiling_per_s: Assumed to fail, without a probe.
        resolution_per_s: The search ends when the interval is no wider.
    """
    passed_per_s, failed_per_s, probed_failure = 0.0, ceiling_per_s, False
    while failed_per_s - passed_per_s > resolution_per_s:
        rate_per_s = round((passed_per_s + failed_per_s) / 2, 2)
        if passes(rate_per_s):
            passed_per_s = rate_per_s
        else:
            failed_per_s, probed_failure = rate_per_s, True
    return Bracket(passed_per_s=passed_per_s, failed_per_s=failed_per_s if probed_failure else None)


def probe_duration_s(rate_per_s: float, usual_s: float) -> float:
    """Longer than usual where the rate is so low that the p99 would be the slowest of few."""
    return min(max(usual_s, LEAST_REQUESTS / rate_per_s), LONGEST_PROBE_S)


def rule_in_words(*, budget_ms: float, probe_s: float, resolution_per_s: float) -> str:
    """How a search decided, for the record."""
    return (
        f"bisection to {resolution_per_s:g}/s; a probe of {probe_s:g} s or {LEAST_REQUESTS} "
        f"arrivals passes with p99 <= {budget_ms:g} ms, no failure and no wrong answer; "
        "no rate is probed twice"
    )


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
