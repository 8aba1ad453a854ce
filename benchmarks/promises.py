"""Tries one promise on this project: start it, load it, judge, store the record."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import verdicts
from benchmarks.applied_load import Load
from benchmarks.catalogue import PRODUCT_SERVER
from benchmarks.exchanges import Target
from benchmarks.images import DIGITS_MIX, WEB_MIX
from benchmarks.machine import this_commit, this_machine
from benchmarks.measure import target_of
from benchmarks.peers.environments import installed_versions
from benchmarks.plan import Case
from benchmarks.record import Check, Run, Session
from benchmarks.results import write_session
from benchmarks.run import BUILD, RESULTS, prepared, say
from benchmarks.running import ROOT, ask, patient_setting, running, workload_environment
from benchmarks.workload import DIGITS, read_workload

WARMUP_S = 2.0
CAPACITY_S = 10.0
CONNECTIONS = 8
LONGEST_SOAK_S = 3_600.0
MIXED_CONNECTIONS = (1, 3, 8, 32)
"""Different numbers of requests at a time make different batches."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is tried.

    Attributes:
        model: Name of the workload: architecture and precision, e.g. "resnet50-int8".
        photos: See `images.make_mixes`.
        settings: CLASSIFIER_* for the server.
        budget_ms: Latency the p99 may take.
    """

    model: str
    photos: Path
    settings: dict[str, str]
    budget_ms: float = 50.0

    def case(self) -> Case:
        """The workload it names."""
        architecture, _, precision = self.model.rpartition("-")
        mix = DIGITS_MIX if architecture == DIGITS else WEB_MIX
        return Case(
            architecture=architecture, precision=precision, mix=mix, rates_per_s=(), servers=()
        )


def patient(subject: Subject, **settings: str) -> Subject:
    """The subject, refusing nothing that a closed loop asks, with further settings."""
    return dataclasses.replace(
        subject, settings={**subject.settings, **patient_setting(), **settings}
    )


def hold(subject: Subject, *, rate_per_s: float, minutes: float) -> Path:
    """Offer one rate for minutes."""
    with _served(subject) as load:
        run = load.offer(rate_per_s, 60 * minutes)
    check = verdicts.hold(run, subject.settings, budget_ms=subject.budget_ms)
    return _stored(subject, check, [run])


def overload(subject: Subject, *, times: float, seconds: float) -> Path:
    """Measure the capacity where nothing is refused, then offer a multiple to the usual server."""
    with _served(patient(subject)) as load:
        capacity = load.keep_busy(CONNECTIONS, min(CAPACITY_S, seconds))
    with _served(subject) as load:
        run = load.offer(round(times * capacity.answered_per_s, 1), seconds)
    check = verdicts.overload(capacity, run, subject.settings, budget_ms=subject.budget_ms)
    return _stored(subject, check, [capacity, run])


def soak(subject: Subject, *, requests: int, connections: int) -> Path:
    """Send many requests, a fixed number at a time; all are to be done, none refused."""
    subject = patient(subject)
    with _served(subject) as load:
        run = load.keep_busy(connections, LONGEST_SOAK_S, most_requests=requests)
    return _stored(subject, verdicts.soak(run, subject.settings, requests=requests), [run])


def deterministic(subject: Subject, *, seconds: float) -> Path:
    """Compare whole answers under changing load with those of each image alone."""
    subject = patient(subject, CLASSIFIER_DETERMINISTIC="true")
    with _served(subject) as load:
        strict = dataclasses.replace(load, target=to_the_last_digit(load.target))
        runs = [
            strict.keep_busy(connections, seconds / len(MIXED_CONNECTIONS))
            for connections in MIXED_CONNECTIONS
        ]
    return _stored(subject, verdicts.deterministic(runs, subject.settings), runs)


def to_the_last_digit(target: Target, answer: Callable[[bytes], bytes] | None = None) -> Target:
    """The target, where an answer is right only if equal to the one its image has alone.

    Args:
        target: Of a server that runs and is idle.
        answer: Asks it once and returns the body; for tests.
    """
    asked = answer or (lambda request: ask(target.port, request)[1])
    alone = [_predictions(asked(request)) for request in target.requests]
    numbers = {text: index for index, text in enumerate(dict.fromkeys(alone))}
    return dataclasses.replace(
        target,
        accepted=tuple(frozenset({numbers[text]}) for text in alone),
        read_class=lambda body: numbers[_predictions(body)],
    )


def _predictions(body: bytes) -> str:
    return json.dumps(json.loads(body)["predictions"])


@contextlib.contextmanager
def _served(subject: Subject) -> Iterator[Load]:
    case = subject.case()
    path = prepared(case, subject.photos)
    probe = target_of(PRODUCT_SERVER, read_workload(path), case.mix, port=0)
    with running(
        PRODUCT_SERVER,
        sys.executable,
        environment=workload_environment(PRODUCT_SERVER, path, settings=subject.settings),
        log_path=BUILD / "logs" / f"promise-{case.model}.log",
        probe=probe,
    ) as server:
        load = Load(server=server, target=dataclasses.replace(probe, port=server.port))
        load.keep_busy(CONNECTIONS, WARMUP_S)
        say(f"{case.model} ready after {server.ready_s:.1f} s, warm")
        yield load


def _stored(subject: Subject, check: Check, runs: list[Run]) -> Path:
    say(f"promised: {check.promise}")
    say(f"found:    {check.found}: {'kept' if check.kept else 'NOT KEPT'}")
    session = Session(
        name=f"{check.name}-{subject.model}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=this_commit(ROOT),
        machine=this_machine(),
        versions={"benchmark": installed_versions(sys.executable)},
        runs=tuple(runs),
        checks=(check,),
    )
    return write_session(session, RESULTS)
