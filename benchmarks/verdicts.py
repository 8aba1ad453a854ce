"""What a run must be like for a promise to be kept: pure functions from runs to checks."""

import math
from http import HTTPStatus

from benchmarks.highest_rate import within_budget
from benchmarks.record import Check, Run

GOODPUT_PART = 0.9
"""Of its capacity, the least that a server answers while far more is asked."""
OVERLOAD_BUDGETS = 2
"""An accepted request may take this many budgets under overload: one to wait, one to be done."""
REFUSED = str(int(HTTPStatus.TOO_MANY_REQUESTS))


def hold(run: Run, settings: dict[str, str], *, budget_ms: float) -> Check:
    """A rate is held when every request is answered right and the p99 is within the budget."""
    p99_ms = run.percentile_ms(99)
    return Check(
        name="hold",
        model=run.model,
        images=run.images,
        settings=settings,
        promise=f"{run.offered_rate_per_s:g}/s for {run.duration_s / 60:g} minutes: "
        f"0 errors, p99 ≤ {budget_ms:g} ms",
        found=f"{len(run.latencies_ms)} answers, {run.failures} failed, {run.wrong} wrong, "
        f"p50 {run.percentile_ms(50):.1f} ms, p99 {p99_ms:.1f} ms",
        kept=within_budget(run, budget_ms),
        facts=_finite(p50_ms=run.percentile_ms(50), p99_ms=p99_ms, failed=run.failures),
    )


def overload(capacity: Run, run: Run, settings: dict[str, str], *, budget_ms: float) -> Check:
    """Far beyond capacity, the answers go on and the rest is refused at once.

    Args:
        capacity: Closed loop, before, on a server that refuses nothing.
        run: Open loop at a multiple of it, on one with the usual limit of the wait.
    """
    goodput = (len(run.latencies_ms) - run.wrong) / run.duration_s
    part = goodput / capacity.answered_per_s if capacity.answered_per_s else 0.0
    sent = len(run.latencies_ms) + run.failures
    refused = run.failed.get(REFUSED, 0)
    other = run.failures - refused
    p99_ms = run.percentile_ms(99)
    bound_ms = OVERLOAD_BUDGETS * budget_ms
    return Check(
        name="overload",
        model=run.model,
        images=run.images,
        settings=settings,
        promise=f"{run.offered_rate_per_s:g}/s for {run.duration_s:g} s, capacity "
        f"{capacity.answered_per_s:.1f}/s: goodput ≥ {GOODPUT_PART:g} × capacity, accepted p99 "
        f"≤ {bound_ms:g} ms, the rest 429",
        found=f"goodput {goodput:.1f}/s = {part:.2f} × capacity, accepted p99 {p99_ms:.1f} ms, "
        f"{100 * refused / sent:.1f} % refused with 429, {other} failed otherwise, "
        f"{run.wrong} wrong; of the capacity's run {capacity.failures} failed",
        kept=part >= GOODPUT_PART and p99_ms <= bound_ms and not other and not run.wrong,
        facts=_finite(
            capacity_per_s=capacity.answered_per_s,
            failed_at_capacity=capacity.failures,
            goodput_per_s=goodput,
            accepted_p99_ms=p99_ms,
            share_of_429=refused / sent,
            failed_otherwise=other,
        ),
    )


def soak(run: Run, settings: dict[str, str], *, requests: int) -> Check:
    """Nothing is lost among many requests; a refusal with 429 is an answer."""
    refused = run.failed.get(REFUSED, 0)
    lost = run.failures - refused
    answered = len(run.latencies_ms)
    return Check(
        name="soak",
        model=run.model,
        images=run.images,
        settings=settings,
        promise=f"{requests} requests, {run.connections} at a time: 0 lost, 0 wrong",
        found=f"{answered} answers in {run.elapsed_s:.0f} s ({run.answered_per_s:.0f}/s), "
        f"{refused} refused with 429, {lost} lost {_others(run)}, {run.wrong} wrong",
        kept=not lost and not run.wrong and answered + run.failures == requests,
        facts={
            "answered": answered,
            "refused": refused,
            "lost": lost,
            "wrong": run.wrong,
            "answered_per_s": run.answered_per_s,
        },
    )


def deterministic(runs: list[Run], settings: dict[str, str]) -> Check:
    """Every answer under load is, character by character, the one its image had alone.

    Args:
        runs: Judged against whole answers, so that `wrong` counts those that differ.
    """
    answered = sum(len(run.latencies_ms) for run in runs)
    different = sum(run.wrong for run in runs)
    connections = ", ".join(str(run.connections) for run in runs)
    return Check(
        name="deterministic",
        model=runs[0].model,
        images=runs[0].images,
        settings=settings,
        promise="the same image has the same answer, to the last digit, whatever the traffic",
        found=f"{answered} answers at {connections} requests at a time, {different} differ, "
        f"{sum(run.failures for run in runs)} failed",
        kept=answered > 0 and not different,
        facts={"answered": answered, "different": different},
    )


def _others(run: Run) -> str:
    others = {reason: count for reason, count in run.failed.items() if reason != REFUSED}
    return str(others) if others else ""


def _finite(**facts: float) -> dict[str, float]:
    # Without any answer a percentile is infinite, and JSON has no word for it.
    return {name: float(value) for name, value in facts.items() if math.isfinite(value)}
