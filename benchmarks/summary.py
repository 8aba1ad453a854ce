"""One row a server: what the rounds of a session come to."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.catalogue import NULL, preprocessing_of
from benchmarks.record import HighestRate, Limit, Run, Session

USUAL_BUDGET_MS = 50.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and extremes over rounds; percentiles of rounds are never averaged."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None where there are no values."""
        ordered = sorted(values)
        if not ordered:
            return None
        return cls(median=statistics.median(ordered), lowest=ordered[0], highest=ordered[-1])


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What one search for the highest rate came to.

    Attributes:
        passed_per_s: Highest rate within the budget; 0 where none was.
        failed_per_s: Lowest rate that was not; None where all were.
        arrivals: Of the shorter of the runs at these rates; of one given up those expected.
    """

    passed_per_s: float
    failed_per_s: float | None
    arrivals: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server in one case.

    Attributes:
        saturated_per_s: Correct answers per second in closed loop.
        unanswered: Of the requests at saturation, the share that got no usual answer, by reason.
        part_of_limit: Saturated throughput ÷ in-process limit measured just before.
        searches: For the highest rate within the budget.
        p50_low_ms: Median latency at the lowest rate that every server was offered.
        added_ms: That minus the in-process median of one caller at the same rate and in the same
            round.
        failed, wrong: Over all runs, those beyond the server's capacity included.
        failed_within: Failures of the open runs at rates below 90 % of its saturated throughput.
    """

    server: str
    saturated_per_s: Spread | None
    unanswered: dict[str, float]
    part_of_limit: Spread | None
    searches: tuple[Searched, ...]
    p50_low_ms: Spread | None
    added_ms: Spread | None
    ready_s: Spread | None
    memory_mb: Spread | None
    failed: int
    failed_within: int
    wrong: int


def cases(session: Session) -> list[tuple[str, str]]:
    """(model, image mix) of the session, in the order measured."""
    return list(dict.fromkeys((run.model, run.images) for run in session.runs))


def budget_of(session: Session, case: tuple[str, str]) -> float:
    """Latency the p99 could take in the searches of a case; the usual 50 ms without any."""
    searches = (one for one in session.highest_rates if (one.model, one.images) == case)
    return next((one.budget_ms for one in searches), USUAL_BUDGET_MS)


def servers(session: Session, case: tuple[str, str]) -> list[str]:
    """Measured servers of a case, in order, without the null server."""
    runs = runs_of(session, case)
    return [name for name in dict.fromkeys(run.server for run in runs) if name != NULL.name]


def runs_of(session: Session, case: tuple[str, str], server: str | None = None) -> list[Run]:
    """Runs of a case, of one server or of all."""
    return [
        run
        for run in session.runs
        if (run.model, run.images) == case and server in (None, run.server)
    ]


def image_limits(session: Session, case: tuple[str, str], preprocessing: str) -> list[Limit]:
    """Decode-and-infer limits of a case, all rounds and stream counts."""
    return [
        limit
        for limit in session.limits
        if (limit.model, limit.images, limit.work) == (*case, "images")
        and limit.preprocessing == preprocessing
    ]


def row_of(session: Session, case: tuple[str, str], server: str) -> Row:
    """Summarise one server.

    Its throughput is compared with the limit that does the same work: the project's own
    preprocessing for this project, bare Pillow calls for the peers.
    """
    runs = runs_of(session, case, server)
    limits = image_limits(session, case, preprocessing_of(server))
    lowest_per_s = lowest_common_rate(session, case)
    closed = [run for run in runs if run.mode == "closed"]
    slowest = runs_at(runs, lowest_per_s)
    mean_per_s = statistics.mean(run.answered_per_s for run in closed) if closed else 0.0
    starts = [s for s in session.starts if (s.server, s.model) == (server, case[0])]
    return Row(
        server=server,
        saturated_per_s=Spread.of(run.answered_per_s for run in closed),
        unanswered=_unanswered(closed),
        part_of_limit=Spread.of(
            run.answered_per_s / limit
            for run in closed
            if (limit := _throughput_limit(limits, run.round, server))
        ),
        searches=tuple(
            _searched(found, runs)
            for found in session.highest_rates
            if (found.model, found.images, found.server) == (*case, server)
        ),
        p50_low_ms=Spread.of(run.percentile_ms(50) for run in slowest),
        added_ms=Spread.of(
            run.percentile_ms(50) - alone
            for run in slowest
            if (alone := _latency_limit_ms(session, run)) is not None
        ),
        ready_s=Spread.of(start.ready_s for start in starts),
        memory_mb=Spread.of(start.memory_mb for start in starts),
        failed=sum(run.failures for run in runs),
        failed_within=sum(
            run.failures
            for run in runs
            if run.offered_rate_per_s is not None and run.offered_rate_per_s < 0.9 * mean_per_s
        ),
        wrong=sum(run.wrong for run in runs),
    )


def _searched(found: HighestRate, runs: Sequence[Run]) -> Searched:
    arrivals: dict[float, int] = {}
    for run in runs:
        if run.round == found.round and (rate_per_s := run.offered_rate_per_s) is not None:
            many = round(rate_per_s * run.duration_s) if run.given_up else len(run.send_skew_ms)
            arrivals[rate_per_s] = max(arrivals.get(rate_per_s, 0), many)
    rates = (found.rate_per_s, found.first_failed_rate_per_s)
    return Searched(
        passed_per_s=found.rate_per_s,
        failed_per_s=found.first_failed_rate_per_s,
        arrivals=min((arrivals[rate] for rate in rates if rate in arrivals), default=0),
    )


def _unanswered(runs: Sequence[Run]) -> dict[str, float]:
    failed: Counter[str] = Counter()
    for run in runs:
        failed.update(run.failed)
    sent = failed.total() + sum(len(run.latencies_ms) for run in runs)
    return {reason: count / sent for reason, count in failed.items()}


def lowest_common_rate(session: Session, case: tuple[str, str]) -> float | None:
    """The lowest rate that every server was offered: a search may go below it for one of them."""
    offered = [
        {run.offered_rate_per_s for run in runs_of(session, case, server)} - {None}
        for server in servers(session, case)
    ]
    common = set.intersection(*offered) if offered else set()
    return min((rate for rate in common if rate is not None), default=None)


def runs_at(runs: Sequence[Run], rate_per_s: float | None) -> list[Run]:
    """The whole open runs at one rate; none where there is no rate."""
    return [
        run
        for run in runs
        if rate_per_s is not None and run.offered_rate_per_s == rate_per_s and not run.given_up
    ]


def _throughput_limit(limits: Sequence[Limit], round_: int, server: str) -> float:
    """The one measured just before the server; where there is none, the best of the round."""
    same = [limit for limit in limits if limit.round == round_ and limit.rate_per_s is None]
    own = [limit for limit in same if limit.server == server]
    return max((each.images_per_s for each in own or same), default=0.0)


def _latency_limit_ms(session: Session, run: Run) -> float | None:
    """The in-process median of one caller at the rate and in the round of an open run."""
    paced = [
        limit.percentile_ms(50)
        for limit in image_limits(session, (run.model, run.images), "project")
        if (limit.rate_per_s, limit.round) == (run.offered_rate_per_s, run.round)
    ]
    return min(paced, default=None)
