"""The tables of one case of the report, as Markdown."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from benchmarks.catalogue import OWN, PRODUCT
from benchmarks.highest_rate import LEAST_REQUESTS
from benchmarks.record import Limit, Run, Session, nearest_rank
from benchmarks.summary import Row, Searched, Spread, runs_at, runs_of, servers


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(spread: Spread | None, digits: int = 1) -> str:
    """Median, with the extremes of the rounds where they differ."""
    if spread is None:
        return "–"
    median = f"{spread.median:.{digits}f}"
    if spread.lowest == spread.highest:
        return median
    return f"{median} ({spread.lowest:.{digits}f}–{spread.highest:.{digits}f})"


def limits_table(session: Session, case: tuple[str, str]) -> str:
    """Every measured configuration without HTTP."""
    alike: dict[tuple[object, ...], list[Limit]] = defaultdict(list)
    for limit in session.limits:
        if (limit.model, limit.images, limit.server) == (*case, None):
            kind = (limit.work, limit.preprocessing, limit.batch_size, limit.streams)
            alike[*kind, limit.rate_per_s].append(limit)
    rows = []
    for same in alike.values():
        one = same[0]
        rows.append(
            [
                "forward only"
                if one.work == "forward"
                else f"decode ({one.preprocessing}) + infer",
                str(one.batch_size),
                str(one.streams),
                number(Spread.of(each.images_per_s for each in same))
                if one.rate_per_s is None
                else f"at {one.rate_per_s:g}",
                number(Spread.of(each.percentile_ms(50) for each in same)),
            ]
        )
    return "In-process limit, no HTTP:\n\n" + table(
        ["work", "batch", "streams", "images/s", "p50 ms"], rows
    )


def servers_table(rows: Sequence[Row], budget_ms: float) -> str:
    """One row a server."""
    return table(
        [
            "server",
            "saturated /s",
            "refused or failed then",
            "÷ limit",
            f"highest rate, p99 ≤ {budget_ms:g} ms",
            "p50 ms at the lowest rate",
            "added ms",
            "start s",
            "memory MB",
            "failed (below 90 % load)",
            "wrong",
        ],
        [
            [
                row.server,
                number(row.saturated_per_s),
                _reasons(row.unanswered),
                number(row.part_of_limit, 2),
                "; ".join(bracket(search) for search in row.searches) or "–",
                number(row.p50_low_ms),
                number(row.added_ms),
                number(row.ready_s),
                number(row.memory_mb, 0),
                f"{row.failed} ({row.failed_within})",
                str(row.wrong),
            ]
            for row in rows
        ],
    )


def bracket(search: Searched) -> str:
    """The highest rate that passed with the lowest that failed, and how few requests said so."""
    failed_per_s = search.failed_per_s
    found = "none failed" if failed_per_s is None else f"failed at {_rate(failed_per_s)}"
    few = 0 < search.arrivals < LEAST_REQUESTS
    arrivals = f"; {search.arrivals} arrivals" if few else ""
    return f"{_rate(search.passed_per_s)} ({found}{arrivals})"


def _rate(rate_per_s: float) -> str:
    return f"{rate_per_s:.3g}" if rate_per_s < 100 else f"{rate_per_s:.0f}"


def _reasons(shares: dict[str, float]) -> str:
    """Shares of requests by status or what else became of them."""
    return ", ".join(f"{share:.1%} {reason}" for reason, share in sorted(shares.items())) or "0"


def rates_table(session: Session, case: tuple[str, str], budget_ms: float) -> str:
    """Latency at the rates that half of the servers or more were offered, all rounds together."""
    named = servers(session, case)
    offered = Counter(
        rate
        for name in named
        for rate in {run.offered_rate_per_s for run in runs_of(session, case, name)} - {None}
    )
    rates = sorted(rate for rate, count in offered.items() if rate and 2 * count >= len(named))
    if not rates:
        return ""
    rows = [
        [name, *(_at_rate(runs_of(session, case, name), rate, budget_ms) for rate in rates)]
        for name in named
    ]
    return (
        f"p50 / p99 in ms, and the share of requests not answered within {budget_ms:g} ms:\n\n"
        + table(["server", *(f"{rate:g}/s" for rate in rates)], rows)
    )


def _at_rate(runs: Sequence[Run], rate_per_s: float, budget_ms: float) -> str:
    runs = runs_at(runs, rate_per_s)
    samples = sorted(sample for run in runs for sample in run.latencies_ms)
    sent = len(samples) + sum(run.failures for run in runs)
    if not samples:
        return "–"
    late = 1 - sum(sample <= budget_ms for sample in samples) / sent
    p50, p99 = (nearest_rank(samples, percent) for percent in (50, 99))
    return f"{p50:.1f} / {p99:.1f}, {late:.1%}"


def ratios(rows: Sequence[Row]) -> str:
    """This project over the best peer."""
    own = next((row for row in rows if row.server == PRODUCT), None)
    peers = [row for row in rows if row.server not in OWN]
    if own is None:
        return ""
    sentences = [each for each in (_throughputs(own, peers), _highest_rates(own, peers)) if each]
    return f"{PRODUCT}: {', '.join(sentences)}." if sentences else ""


def _throughputs(own: Row, peers: Sequence[Row]) -> str:
    measured = {row.server: row.saturated_per_s.median for row in peers if row.saturated_per_s}
    best = max(measured, key=lambda server: measured[server], default="")
    if own.saturated_per_s is None or not best or not measured[best]:
        return ""
    ratio = own.saturated_per_s.median / measured[best]
    return f"throughput {ratio:.2f} × the best peer's ({best})"


def _highest_rates(own: Row, peers: Sequence[Row]) -> str:
    """What the brackets prove, over all rounds; nothing where they overlap."""
    searched = [row for row in peers if row.searches]
    if not own.searches or not searched:
        return ""
    passed, failed = _whole_bracket(own)
    # The peer that may be the best is the one whose bracket ends highest.
    rival = max(searched, key=lambda row: _whole_bracket(row)[::-1])
    best = rival.server
    peer_passed, peer_failed = _whole_bracket(rival)
    if peer_passed < failed and passed < peer_failed:
        return f"highest rate not told apart from the best peer's ({best})"
    arrivals = min(search.arrivals for search in (*own.searches, *rival.searches))
    few = f", from {arrivals} arrivals" if 0 < arrivals < LEAST_REQUESTS else ""
    least = passed / peer_failed
    if math.isinf(failed) or not peer_passed:
        return f"highest rate at least {least:.2f} × the best peer's ({best}{few})"
    most = failed / peer_passed
    return f"highest rate {least:.2f} to {most:.2f} × the best peer's ({best}{few})"


def _whole_bracket(row: Row) -> tuple[float, float]:
    """(lowest rate that passed, highest that failed), inf where none did in a round."""
    failed = (math.inf if it.failed_per_s is None else it.failed_per_s for it in row.searches)
    return min(it.passed_per_s for it in row.searches), max(failed)


def verdicts_table(session: Session, case: tuple[str, str]) -> str:
    """What LoadGen said; empty without verdicts."""
    rows = [
        [
            each.server,
            f"{each.target_per_s:g}",
            "valid" if each.valid else "invalid",
            each.summary.get("Completed samples per second", "–"),
            _ms(each.summary.get("99.00 percentile latency (ns)")),
        ]
        for each in session.verdicts
        if (each.model, each.images) == case
    ]
    header = ["server", "target /s", "result", "completed /s", "p99 ms"]
    return "LoadGen Server scenario, unofficial:\n\n" + table(header, rows) if rows else ""


def _ms(nanoseconds: str | None) -> str:
    return f"{int(nanoseconds) / 1e6:.1f}" if nanoseconds else "–"
