"""Measurements of an artifact: the record of its import and the certified rate."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import RECORD_NAME, SLO_NAME, FrozenModel, read_model


class Machine(FrozenModel):
    """The parts of a machine that decide how fast an engine runs.

    Attributes:
        cpu: Model name of the processor.
        cores: Cores this process may use: the lesser of affinity and container quota.
        features: Instruction sets that engines choose their kernels by, sorted.
        accelerator: Name of the GPU, or None.
    """

    cpu: str
    cores: Annotated[int, Field(ge=1)]
    features: tuple[str, ...]
    accelerator: str | None


class LatencyPoint(FrozenModel):
    """One measured configuration of an engine.

    Attributes:
        batch_size: Images per call.
        streams: Concurrent calls.
        threads: Threads of all streams together.
        latency_ms: Median duration of a call with all streams busy, in milliseconds; the least
            of all rounds, since other programs can only add to it.
        on_gpu: Whether the network ran on a GPU, where it is measured without decoding.
        images_per_s: Throughput of all streams together, decoding included; the median of all
            rounds.
        images_per_s_by_round: The same for each round; all points share the rounds.
        single_ms_by_round: Median duration of a call while nothing else runs, for each round.
    """

    batch_size: Annotated[int, Field(ge=1, le=256)]
    streams: Annotated[int, Field(ge=1, le=1_024)]
    threads: Annotated[int, Field(ge=1, le=1_024)]
    latency_ms: Annotated[float, Field(gt=0)]
    on_gpu: bool = False
    images_per_s: Annotated[float, Field(gt=0)]
    images_per_s_by_round: tuple[Annotated[float, Field(gt=0)], ...] = ()
    single_ms_by_round: tuple[Annotated[float, Field(gt=0)], ...] = ()


class Plan(FrozenModel):
    """How serving runs the network.

    Attributes:
        engine: Name of a certified engine.
        streams: Batches that run concurrently.
        threads: Threads of all streams together.
        batch_sizes: Compiled batch sizes, ascending; other batches are split into these.
        service_time_ms: Milliseconds per image at full load: the inverse of the throughput.
        single_stream: Whether the engine is loaded a second time, with one stream of all threads,
            for single images. The second copy of the weights takes memory.
    """

    engine: str
    streams: Annotated[int, Field(ge=1, le=1_024)]
    threads: Annotated[int, Field(ge=1, le=1_024)]
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1, max_length=32)
    ]
    service_time_ms: Annotated[float, Field(gt=0)]
    single_stream: bool = False

    def divided(self, processes: int) -> "Plan":
        """Return the plan of each of some processes that share the cores."""
        streams, threads = (max(1, n // processes) for n in (self.streams, self.threads))
        return self.model_copy(update={"streams": streams, "threads": threads})


class EngineAttempt(FrozenModel):
    """The result of an import for one engine, certified or not.

    Attributes:
        verdict: "passed", "failed" (the gate), "unavailable" (could not be exported or run).
        reason: Why the verdict is not "passed"; empty otherwise.
        certificate: The comparison with the reference; None if the engine could not run.
        curve: Measured points; empty if nothing was measured.
        compared: The best point of the curve, measured again in rounds with those of the other
            engines; None if no other engine passed.
    """

    engine: str
    verdict: Literal["passed", "failed", "unavailable"]
    reason: str = ""
    certificate: Certificate | None = None
    curve: tuple[LatencyPoint, ...] = ()
    compared: LatencyPoint | None = None


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class ImportRecord(FrozenModel):
    """The circumstances and measurements of one import.

    Attributes:
        schema_version: Version of this file, which no digest pins.
        command: The command line.
        first_command: The command line of the original import, if `command` renewed it.
        proof: Sentences on what the import proves, and what it does not.
        source_commit: Commit of this program, with "-dirty" if files differ; None outside git.
        machine: Machine of the import; the curves and the plan are valid on equal machines only.
    """

    schema_version: Literal[1] = 1
    imported_at: Annotated[datetime, AfterValidator(_in_utc)]
    command: str
    first_command: str | None = None
    proof: tuple[str, ...] = ()
    source_commit: str | None
    machine: Machine
    budget_ms: float
    attempts: tuple[EngineAttempt, ...]
    plan: Plan

    @property
    def for_gpu(self) -> bool:
        """Whether the model was imported to be served on a GPU."""
        return self.machine.accelerator is not None

    @property
    def network_time_ms(self) -> float:
        """Milliseconds per image at full load, without decoding if the plan's point is recorded."""
        if (point := self._point()) is None:
            return self.plan.service_time_ms
        return point.latency_ms / point.batch_size / point.streams

    @property
    def network_share(self) -> float:
        """Part of an image's time that the network takes; 1 if the plan's point is not recorded.

        Of the least disturbed rounds, since other programs can only lengthen both.
        """
        if (point := self._point()) is None:
            return 1.0
        fastest = max((point.images_per_s, *point.images_per_s_by_round))
        return self.network_time_ms * fastest / 1e3

    def _point(self) -> LatencyPoint | None:
        for point in self.curve(self.plan.engine):
            if (point.streams, point.batch_size) == (self.plan.streams, self.plan.batch_sizes[-1]):
                return point
        return None

    def curve(self, engine: str) -> tuple[LatencyPoint, ...]:
        """Return the measured points of an engine; empty if it was not measured."""
        return next((row.curve for row in self.attempts if row.engine == engine), ())


def read_record(root: Path) -> ImportRecord:
    """Return the record in an artifact's directory.

    Raises:
        ArtifactError: The file is missing or not a record.
    """
    return read_model(ImportRecord, root / RECORD_NAME)[0]


class SloCertificate(FrozenModel):
    """A measurement of the whole service, over HTTP, with open-loop Poisson arrivals.

    Attributes:
        schema_version: Version of the file.
        measured_at: ISO 8601, UTC.
        commit: Commit of the program, with "-dirty" if files differed; None outside git.
        machine: Machine of the measurement; server and load generator shared its cores.
        images: Source of the images: "golden", or the name of a directory.
        image_count: Number of different images.
        topology: "embedded" or "runner".
        settings: CLASSIFIER_* variables that were set, without the lock.
        plan: How the server ran the network.
        budget_ms: Limit of the p99 latency.
        highest_rate_per_s: Highest rate with p99 within the budget, no failure and no wrong
            answer; 0 if no rate passed.
        first_failed_rate_per_s: Lowest rate that failed; None if none failed.
        p50_ms, p99_ms: Latencies at the highest rate; None if no rate passed.
        saturated_per_s: Correct answers per second with as many requests as the service accepts.
        ready_s: Seconds from process start to the first correct answer.
        rule: How the highest rate was searched, in words.
    """

    schema_version: Literal[1] = 1
    measured_at: str
    commit: str | None
    machine: Machine
    images: str
    image_count: Annotated[int, Field(ge=1)]
    topology: Literal["embedded", "runner"]
    settings: dict[str, str]
    plan: Plan
    budget_ms: Annotated[float, Field(gt=0)]
    highest_rate_per_s: Annotated[float, Field(ge=0)]
    first_failed_rate_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    saturated_per_s: Annotated[float, Field(ge=0)]
    ready_s: Annotated[float, Field(gt=0)]
    rule: str


def read_slo(root: Path) -> SloCertificate | None:
    """Return the certificate in an artifact's directory, or None if there is none.

    Raises:
        ArtifactError: The file is not a certificate.
    """
    path, remedy = root / SLO_NAME, "delete it, or measure again with `make certify`"
    return read_model(SloCertificate, path, remedy)[0] if path.is_file() else None
