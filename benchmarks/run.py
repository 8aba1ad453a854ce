"""Runs a plan: prepares models, visits the servers in rounds, writes the session."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.catalogue import NULL, PRODUCT_SERVER, Server, preprocessing_of
from benchmarks.machine import this_commit, this_machine
from benchmarks.measure import Visit, measure
from benchmarks.peers.environments import (
    EnvironmentUnavailable,
    environment_python,
    installed_versions,
)
from benchmarks.plan import Case, Plan
from benchmarks.record import Absent, Limit, Record, Session
from benchmarks.results import write_session
from benchmarks.running import ROOT, ServerFailed
from benchmarks.workload import Workload, read_workload
from preprocessing.errors import OperatorError

BUILD = ROOT / "build" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
PREPARE_WITHIN_S = 1200


def say(line: str) -> None:
    """Progress, with the time of day."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def prepare(plan: Plan, photos: Path) -> None:
    """Make the models, images and environments of a plan; measure nothing."""
    for case in plan.cases:
        workload = read_workload(prepared(case, photos))
        say(f"{workload.model}: {'ready' if workload.lock else 'ready for the peers only'}")
    environments = {server.environment: server for case in plan.cases for server in case.servers}
    for name, server in environments.items():
        if name is None:
            continue
        try:
            environment_python(name, BUILD / "environments", server.python)
        except EnvironmentUnavailable as error:
            say(str(error))
        else:
            say(f"{server.name}: environment ready")


class Measurement:
    """One session in the making; what is measured is written after every visit."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self._plan = plan
        self._photos = photos
        self._pythons: dict[str, str] = {}
        self._session = Session(
            name=plan.name,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=this_commit(ROOT),
            machine=this_machine(),
            versions={"benchmark": installed_versions(sys.executable)},
        )

    def run(self) -> Path:
        """Measure every case; return the path of the session's file."""
        ready = [self._prepared(case) for case in self._plan.cases]
        say(
            f"{self._plan.name}: {self._plan.rounds} rounds, slices of {self._plan.slice_s:g} s; "
            f"about {self._plan.duration_s() / 60:.0f} minutes on an idle machine"
        )
        # Rounds outside, cases inside: drift of the machine hits every case too.
        for round_ in range(self._plan.rounds):
            for case, workload_path, servers in ready:
                self._measure_round(case, workload_path, servers, round_)
        return write_session(self._session, RESULTS)

    def _prepared(self, case: Case) -> tuple[Case, Path, list[Server]]:
        workload_path = prepared(case, self._photos)
        workload = read_workload(workload_path)
        return (
            case,
            workload_path,
            [each for each in case.servers if self._installed(each, workload)],
        )

    def _measure_round(
        self, case: Case, workload_path: Path, servers: list[Server], round_: int
    ) -> None:
        workload = read_workload(workload_path)
        last = round_ == self._plan.rounds - 1
        say(f"{workload.model}, {case.mix}, round {round_ + 1} of {self._plan.rounds}")
        self._add(limits=measured_limits(workload_path, case, self._plan.slice_s, round_))
        for server in servers:
            if server is NULL and round_:
                continue  # what the generator costs needs no second number
            visit = Visit(
                server=server,
                python=self._pythons.get(server.name, sys.executable),
                workload=workload,
                workload_path=workload_path,
                mix=case.mix,
                round=round_,
                log_path=BUILD / "logs" / f"{server.name}-{workload.model}-{round_}.log",
                searched=last and server is not NULL,
                loadgen_s=case.loadgen_s if last and server is PRODUCT_SERVER else 0,
            )
            if server is not NULL:
                self._add(limits=[limit_before(visit, self._plan.slice_s)])
            self._visit(visit, case)
            write_session(self._session, RESULTS)

    def _visit(self, visit: Visit, case: Case) -> None:
        name, plan = visit.server.name, self._plan.of_case(case)
        try:
            found = measure(visit, plan, case.rates_per_s, lambda line: say(f"  {name}: {line}"))
        except ServerFailed as error:
            say(f"  {error}")
            self._add(absent=[self._absent(visit.server, visit.workload, str(error))])
        else:
            self._add(
                runs=found.runs,
                highest_rates=found.highest_rates,
                starts=found.starts,
                verdicts=found.verdicts,
            )

    def _installed(self, server: Server, workload: Workload) -> bool:
        """Make the server's environment; on failure record the reason and return False."""
        if server.environment is None:
            return True
        try:
            python = environment_python(server.environment, BUILD / "environments", server.python)
        except EnvironmentUnavailable as error:
            say(f"  {error}")
            self._add(absent=[self._absent(server, workload, str(error))])
            return False
        self._pythons[server.name] = str(python)
        versions = {**self._session.versions, server.name: installed_versions(python)}
        self._session = self._session.model_copy(update={"versions": versions})
        return True

    @staticmethod
    def _absent(server: Server, workload: Workload, reason: str) -> Absent:
        return Absent(server=server.name, model=workload.model, reason=reason)

    def _add(self, **new: Sequence[Record]) -> None:
        """Append records to the session's tuples of these names."""
        self._session = self._session.model_copy(
            update={name: (*getattr(self._session, name), *more) for name, more in new.items()}
        )


def prepared(case: Case, photos: Path) -> Path:
    """Make the case's workload in a process of its own, so that torch is not in this one.

    Raises:
        OperatorError: It cannot be made; the last line of that process says why.
    """
    say(f"preparing {case.model}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.models"),
            *("--architecture", case.architecture),
            *("--precision", case.precision),
            *("--build", str(BUILD)),
            *("--photos", str(photos)),
            *("--threads", str(len(os.sched_getaffinity(0)))),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PREPARE_WITHIN_S,
    )
    last_error = (done.stderr.strip().splitlines() or ["no output"])[-1]
    if done.returncode:
        raise OperatorError(f"{case.model}: cannot be prepared: {last_error}")
    path = Path(done.stdout.strip().splitlines()[-1])
    if not read_workload(path).lock:
        say(f"  {last_error}")
    return path


def limit_before(visit: Visit, seconds: float) -> Limit:
    """The limit of all cores, a moment before a server is measured that is compared with it.

    The speed of a shared machine drifts within minutes: what is compared must be neighbours. One
    caller and one stream a core for every server, whatever was faster by luck a while ago.
    """
    (limit,) = _limits(
        *(str(visit.workload_path), "--images", visit.mix, "--seconds", str(seconds)),
        *("--streams", str(visit.workload.threads)),
        *("--preprocessing", preprocessing_of(visit.server.name)),
    )
    say(f"  {visit.server.name}: limit now {limit.images_per_s:.1f} images/s")
    return limit.model_copy(update={"server": visit.server.name, "round": visit.round})


def measured_limits(workload_path: Path, case: Case, seconds: float, round_: int) -> list[Limit]:
    """All in-process limits, with one stream and with one a core."""
    streams = sorted({1, read_workload(workload_path).threads})
    limits = _limits(
        *(str(workload_path), "--images", case.mix, "--seconds", str(seconds)),
        *("--rate", str(min(case.rates_per_s))),
        *("--streams", *map(str, streams)),
        *("--batch-sizes", *(("1", "4", "8") if round_ == 0 else ())),
    )
    for limit in limits:
        paced = f", at {limit.rate_per_s:g}/s" if limit.rate_per_s else ""
        say(
            f"  limit, {limit.work}: {limit.images_per_s:.1f} images/s with batch "
            f"{limit.batch_size}, {limit.streams} streams, {limit.callers} callers{paced}; "
            f"p50 {limit.percentile_ms(50):.1f} ms"
        )
    return [limit.model_copy(update={"round": round_}) for limit in limits]


def _limits(*arguments: str) -> list[Limit]:
    """What `benchmarks.limit` measures, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.limit", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PREPARE_WITHIN_S,
    )
    return [Limit.model_validate_json(line) for line in done.stdout.splitlines()]
