"""A benchmark session as one JSON file: conditions, raw latencies, failures, wrong answers."""

import base64
import dataclasses
import os
import platform
import subprocess
import zlib
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from image_classifier.artifact.format import replacing
from image_classifier.inference import machine
from importer.source_commit import source_commit
from tools.benchmarks.servers import OWN_PYTHON
from tools.load import HighestRate, Run, nearest_rank
from tools.serving import ROOT

RESULTS = ROOT / "tools" / "benchmarks" / "results"


class BenchmarkError(Exception):
    """The benchmark cannot run as requested."""


def packed(samples_ms: Sequence[float]) -> str:
    """Return latencies as base64 of zlib of little-endian unsigned 32-bit microseconds.

    Rounds to three significant digits, and sorts, which makes them ten times smaller.
    """
    microseconds = array("I", (round(float(f"{ms:.3g}") * 1000) for ms in sorted(samples_ms)))
    return base64.b64encode(zlib.compress(microseconds.tobytes(), 9)).decode()


def unpacked(samples: str) -> tuple[float, ...]:
    """Return packed latencies in milliseconds."""
    microseconds = array("I", zlib.decompress(base64.b64decode(samples)))
    return tuple(sample / 1000 for sample in microseconds)


def _read_run(run: Any) -> Any:
    if not isinstance(run, dict):
        return run
    return Run(**{**run, "latencies_ms": unpacked(run["latencies_ms"])})


def _write_run(run: Run) -> dict[str, Any]:
    return {**dataclasses.asdict(run), "latencies_ms": packed(run.latencies_ms)}


Samples = Annotated[
    tuple[float, ...],
    BeforeValidator(lambda samples: unpacked(samples) if isinstance(samples, str) else samples),
    PlainSerializer(packed),
]
"""Latencies in milliseconds; packed in the file."""
StoredRun = Annotated[Run, BeforeValidator(_read_run), PlainSerializer(_write_run)]


class Record(BaseModel):
    """Base of all stored values: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(Record):
    """The computer of a session, shared by server and load generator."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_gb: float
    kernel: str


class Limit(Record):
    """The speed of the same engine and files in one process, without a server.

    Attributes:
        work: "images" decodes, preprocesses and infers; "forward" only runs the network.
        streams: Streams of the engine, each with its own caller; they share all cores.
        rate_per_s: Rate of Poisson arrivals at one caller; None for calls back to back.
        latencies_ms: Of every call, unordered.
    """

    work: Literal["images", "forward"]
    streams: int
    batch_size: int = 1
    rate_per_s: float | None = None
    round: int = 0
    elapsed_s: float
    latencies_ms: Samples

    @property
    def images_per_s(self) -> float:
        """Throughput of all callers together."""
        return len(self.latencies_ms) * self.batch_size / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        """Return the nearest-rank percentile of the calls."""
        return nearest_rank(self.latencies_ms, percent)


class Visit(Record):
    """One measurement of one server.

    Attributes:
        settings: Further settings of this project and of the load.
        ready_s: From process start to the first correct answer.
        memory_mb: Proportional set size of the process tree after the saturating run.
        growth_mb: Growth of memory between the first part of a long load and its end.
        limit: Measured just before, because the speed of a shared machine drifts.
        error: Why the measurement failed; empty otherwise.
    """

    server: str
    round: int = 0
    settings: dict[str, str] = {}
    ready_s: float | None = None
    memory_mb: float | None = None
    growth_mb: float | None = None
    limit: Limit | None = None
    runs: tuple[StoredRun, ...] = ()
    highest: HighestRate | None = None
    error: str = ""

    @property
    def saturated(self) -> Run | None:
        """The closed loop."""
        return next((run for run in self.runs if run.rate_per_s is None), None)

    def at(self, rate_per_s: float) -> Run | None:
        """The open loop at a rate, unless it ended early."""
        found = (run for run in self.runs if run.rate_per_s == rate_per_s and not run.given_up)
        return next(found, None)


class CaseResult(Record):
    """One model with one image mix: the machine's limits and all visits to servers."""

    model: str
    images: str
    budget_ms: float
    low_rate_per_s: float
    limits: tuple[Limit, ...] = ()
    visits: tuple[Visit, ...] = ()

    @property
    def servers(self) -> tuple[str, ...]:
        """Names in order of their first visit."""
        return tuple(dict.fromkeys(visit.server for visit in self.visits))


class Session(Record):
    """One invocation of the benchmark.

    Attributes:
        load_average: Of the minute before the start, in processes; None if not recorded.
        versions: Package versions of all servers, in sessions until 2026-11-27; the locks of the
            commit pin them.
        python: Version and build of the interpreter of all servers and of the limit; None in
            sessions until 2026-11-28T06, in which the build of this project's was slower.
    """

    schema_version: Literal[2] = 2
    name: str
    date: str
    commit: str
    machine: Machine
    load_average: float | None
    versions: dict[str, str] = {}
    python: str | None = None
    cases: tuple[CaseResult, ...] = ()

    @property
    def file_name(self) -> str:
        """Name of its file: unlike one by day, that of a second session replaces no other."""
        return f"{self.date[:16].replace(':', '')}-{self.commit}-{self.name}.json"


def this_machine() -> Machine:
    """Return processor, memory and kernel."""
    here = machine.this_machine()
    cpu, features = here.cpu, here.features
    # oneDNN, and with it OpenVINO, then uses nothing beyond: another kind of processor, imitated.
    if os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2":
        cpu += " (limited to AVX2)"
        features = tuple(name for name in features if not name.startswith("avx512"))
    return Machine(
        cpu=cpu,
        cores=here.cores,
        features=features,
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=platform.release(),
    )


def begin_session(name: str) -> Session:
    """Return an empty session with time, machine and commit."""
    return Session(
        name=name,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=source_commit(ROOT, digits=10) or "unknown",
        machine=this_machine(),
        load_average=round(os.getloadavg()[0], 2),
        python=_python_version(),
    )


def _python_version() -> str:
    command = [str(OWN_PYTHON), "-c", "import sys; print(sys.version)"]
    return subprocess.check_output(command, text=True).strip()


def write_session(session: Session, folder: Path) -> Path:
    """Write or replace the session's file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / session.file_name
    with replacing(path) as unfinished:
        unfinished.write_text(session.model_dump_json(indent=1) + "\n")
    return path


def read_session(path: Path) -> Session:
    """Read a session.

    Raises:
        BenchmarkError: The file is not a session of this schema.
    """
    try:
        return Session.model_validate_json(path.read_bytes())
    except (ValidationError, TypeError, zlib.error) as error:
        raise BenchmarkError(
            f"{path.name}: not a session of schema 2 ({type(error).__name__}); measure again"
        ) from error


def stored_sessions(folder: Path = RESULTS) -> list[Session]:
    """Return all sessions of a folder, the newest first."""
    sessions = [read_session(path) for path in folder.glob("20??-??-??T*.json")]
    return sorted(sessions, key=lambda session: session.date, reverse=True)
