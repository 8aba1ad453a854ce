"""What was measured and under which conditions, as frozen values that files hold."""

import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal[1] = 1


class Record(BaseModel):
    """Base of all recorded values: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """A sample that at least `percent` % of the samples do not exceed.

    Args:
        ordered: Samples in ascending order, at least one.
        percent: In (0, 100].
    """
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


class Run(Record):
    """One load run against one server.

    Attributes:
        server: Name of the server under test.
        model: Name of the workload's model.
        images: Name of the image mix.
        mode: "open" sends at scheduled times whatever the replies; "closed" keeps `connections`
            requests in flight.
        round: Which round of the interleaved measurement, from 0.
        offered_rate_per_s: Requests scheduled per second; None in closed mode.
        connections: Requests kept in flight; None in open mode.
        seed: Of the arrival schedule and of the order of images.
        duration_s: Length of the schedule, or of the closed-loop run.
        elapsed_s: From the first scheduled arrival to the last answer.
        latencies_ms: Every request answered 200, in the order sent, from its scheduled arrival
            (open) or from its sending (closed); nothing is trimmed.
        failed: Requests answered with another status or not at all, by reason. They are not in
            `latencies_ms`.
        wrong: Requests answered 200 with a class other than the reference's.
        send_skew_ms: How late the generator itself was for each request, before it looked for a
            connection; empty in closed mode.
        given_up: It ended early, certain to miss the budget: its percentiles mean nothing else.
        client_cpu_s: Processor time of the generator during the run.
        server_cpu_s: Processor time of the server's process tree during the run.
    """

    server: str
    model: str
    images: str
    mode: Literal["open", "closed"]
    round: int = 0
    offered_rate_per_s: float | None = None
    connections: int | None = None
    seed: int
    duration_s: float
    elapsed_s: float
    latencies_ms: tuple[float, ...]
    failed: dict[str, int] = Field(default_factory=dict)
    wrong: int = 0
    send_skew_ms: tuple[float, ...] = ()
    given_up: bool = False
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        if (self.mode == "open") != (self.offered_rate_per_s is not None):
            raise ValueError("an open run, and only an open run, has an offered rate")
        return self

    @property
    def failures(self) -> int:
        """Requests that got no usable answer."""
        return sum(self.failed.values())

    @property
    def answered_per_s(self) -> float:
        """Correct answers per second of the whole run, its last answers included."""
        return (len(self.latencies_ms) - self.wrong) / self.elapsed_s if self.elapsed_s else 0.0

    def percentile_ms(self, percent: float) -> float:
        """Nearest-rank percentile: a latency that some request really had; inf without any."""
        return nearest_rank(sorted(self.latencies_ms), percent) if self.latencies_ms else math.inf

    def skew_percentile_ms(self, percent: float) -> float:
        """Nearest-rank percentile of the generator's own lateness; 0 without samples."""
        return nearest_rank(sorted(self.send_skew_ms), percent) if self.send_skew_ms else 0.0


class Limit(Record):
    """What the machine can do without a server.

    Attributes:
        work: "forward" runs the network on ready inputs; "images" decodes and preprocesses too.
        preprocessing: Which code turned bytes into an input; "none" for forward.
        threads: Of the engine in total; callers: Python threads that call it.
        rate_per_s: Of Poisson arrivals, for the latency of images that come now and then: caches
            and cores have cooled down. None where each call follows the one before.
        server: Measured a moment before this server was, to be compared with it; None for all.
        latencies_ms: Of every call, in no order.
    """

    model: str
    images: str
    engine: str
    work: Literal["forward", "images"]
    preprocessing: str
    batch_size: int
    streams: int
    threads: int
    callers: int
    rate_per_s: float | None = None
    server: str | None = None
    round: int = 0
    elapsed_s: float
    images_done: int
    latencies_ms: tuple[float, ...]

    @property
    def images_per_s(self) -> float:
        """Throughput of the whole run."""
        return self.images_done / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        """Nearest-rank percentile of the calls."""
        return nearest_rank(sorted(self.latencies_ms), percent)


class HighestRate(Record):
    """Result of one search for the highest rate within the budget.

    Attributes:
        rate_per_s: Highest rate that passed; 0 where none did.
        first_failed_rate_per_s: Lowest rate that failed; None where none did.
        rule: How the search decided, in words.
    """

    server: str
    model: str
    images: str
    round: int
    rate_per_s: float
    first_failed_rate_per_s: float | None
    budget_ms: float
    rule: str


class Start(Record):
    """From process start to the first correct answer.

    Attributes:
        memory_mb: Proportional set size of the process tree after load, of two starts the larger.
    """

    server: str
    model: str
    round: int
    ready_s: float
    memory_mb: float


class Verdict(Record):
    """What MLPerf LoadGen's Server scenario said; unofficial.

    Attributes:
        valid: LoadGen's own result line.
        summary: LoadGen's summary, name to value, as it wrote them.
    """

    server: str
    model: str
    images: str
    target_per_s: float
    budget_ms: float
    valid: bool
    wrong: int
    failed: int
    summary: dict[str, str]


class Check(Record):
    """One promise about this project, tried once.

    Attributes:
        name: "hold", "overload", "soak" or "deterministic".
        settings: CLASSIFIER_* that the server was started with, without the lock.
        promise: What must be so, in words.
        found: What was, in words.
        kept: Whether it was so.
        facts: The numbers behind it, by name; the unit ends the name.
    """

    name: str
    model: str
    images: str
    settings: dict[str, str]
    promise: str
    found: str
    kept: bool
    facts: dict[str, float]


class Absent(Record):
    """A server that was not measured, with the reason."""

    server: str
    model: str
    reason: str


class Machine(Record):
    """The computer the numbers come from.

    Attributes:
        affinity: Processors that servers and load generator share.
        cpu_features: Of the instruction sets that decide the speed of inference, those it has.
    """

    cpu_model: str
    cpu_count: int
    cpu_features: tuple[str, ...]
    memory_gb: float
    kernel: str
    affinity: tuple[int, ...]


class Session(Record):
    """One invocation of the benchmark."""

    schema_version: Literal[1] = 1
    name: str
    date: str
    commit: str
    machine: Machine
    versions: dict[str, dict[str, str]]
    runs: tuple[Run, ...] = ()
    limits: tuple[Limit, ...] = ()
    highest_rates: tuple[HighestRate, ...] = ()
    starts: tuple[Start, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    checks: tuple[Check, ...] = ()
    absent: tuple[Absent, ...] = ()
