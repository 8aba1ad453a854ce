"""What was measured of an artifact: the import's record and the certified rate."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from image_classifier.artifact.evidence import Certificate
from image_classifier.artifact.format import RECORD_NAME, SLO_NAME, FrozenModel, read_model


class Machine(FrozenModel):
    """What decides how fast an engine runs.

    Attributes:
        cpu: Model name of the processor.
        cores: Cores this process may use: affinity and container quota, whichever is less.
        features: Instruction sets engines choose their kernels by, sorted.
        accelerator: Name of the GPU, or None.
    """

    cpu: str
    cores: Annotated[int, Field(ge=1)]
    features: tuple[str, ...]
    accelerator: str | None


class LatencyPoint(FrozenModel):
    """One measured configuration of an engine.

    Attributes:
        batch_size: Images a call.
        streams: Calls at a time.
        threads: Threads of all streams together.
        latency_ms: Median duration of one call, in milliseconds, all streams busy; of several
            rounds the shortest, since other programs can only add to it.
        on_gpu: Whether this was on a GPU, where the network is measured without decoding.
        images_per_s: Images a second of all streams together, decoding included; the median of
            the rounds.
        images_per_s_by_round: In the order measured, together with the other points.
        single_ms_by_round: Median duration of a call while nothing else runs.
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
        streams: Batches that run at a time.
        threads: Threads of all streams together.
        batch_sizes: Shapes that are compiled, ascending; other batches are split into these.
        service_time_ms: Milliseconds per image at full load: the inverse of images a second.
        single_stream: Whether the engine is loaded a second time, with one stream of all threads,
            for requests that arrive alone. The copy of the weights takes memory.
    """

    engine: str
    streams: Annotated[int, Field(ge=1, le=1_024)]
    threads: Annotated[int, Field(ge=1, le=1_024)]
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1, max_length=32)
    ]
    service_time_ms: Annotated[float, Field(gt=0)]
    single_stream: bool = False


class EngineAttempt(FrozenModel):
    """What became of one engine at import, certified or not.

    Attributes:
        verdict: "passed", "failed" (the gate), "unavailable" (could not be exported or run).
        reason: Why it is not "passed"; empty otherwise.
        certificate: The comparison with the reference, passed or not; None where it could not run.
        curve: Measured points; empty where nothing was measured.
        compared: The best of these points, measured again in turn with those of the other engines;
            None where there was no other.
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
    """One import, as it happened.

    Attributes:
        schema_version: Of this file, which no digest pins.
        command: The command line.
        source_commit: Commit of this program; "-dirty" where files differ; None outside git.
        machine: It was imported on; the curves and the plan hold there.
    """

    schema_version: Literal[1] = 1
    imported_at: Annotated[datetime, AfterValidator(_in_utc)]
    command: str
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
        """Milliseconds of the network alone per image at full load.

        With decoding where it was not measured alone.
        """
        for point in self.curve(self.plan.engine):
            if (point.streams, point.batch_size) == (self.plan.streams, self.plan.batch_sizes[-1]):
                return point.latency_ms / point.batch_size / point.streams
        return self.plan.service_time_ms

    def curve(self, engine: str) -> tuple[LatencyPoint, ...]:
        """The measured points of one engine; empty where it was not measured."""
        for attempt in self.attempts:
            if attempt.engine == engine:
                return attempt.curve
        return ()


def read_record(root: Path) -> ImportRecord | None:
    """The record beside a manifest, or None where there is none.

    Raises:
        ArtifactError: The file is not a record.
    """
    path = root / RECORD_NAME
    return read_model(ImportRecord, path)[0] if path.is_file() else None


class SloCertificate(FrozenModel):
    """One measurement of the whole service, over HTTP, with open-loop Poisson arrivals.

    Attributes:
        schema_version: Of the file.
        measured_at: ISO 8601, UTC.
        commit: Of the program, with "-dirty" where files differed from it; None outside git.
        machine: It was measured on; server and load generator shared its cores.
        images: Where the images came from: "golden", or the name of the directory given.
        image_count: Number of different images.
        topology: "embedded" or "runner".
        settings: CLASSIFIER_* that were set, without the lock.
        plan: How the server ran the network.
        budget_ms: Latency the p99 may take.
        highest_rate_per_s: Highest rate with p99 within the budget, no failure and no wrong
            answer; 0 where no rate passed.
        first_failed_rate_per_s: Lowest rate that did not; None where none failed.
        p50_ms, p99_ms: At the highest rate, in milliseconds; None where no rate passed.
        saturated_per_s: Correct answers a second with as many requests as it can take.
        ready_s: From process start to the first correct answer.
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
    """The certificate beside a manifest, or None where there is none.

    Raises:
        ArtifactError: The file is not a certificate.
    """
    path, remedy = root / SLO_NAME, "delete it, or measure again with `make certify`"
    return read_model(SloCertificate, path, remedy)[0] if path.is_file() else None
