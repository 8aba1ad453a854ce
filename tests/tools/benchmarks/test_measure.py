"""What is measured on which start, with tiny servers in the place of real ones."""

# psutil ships no types.
# mypy: disable-error-code="import-untyped"

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import measure, promises
from benchmarks.applied_load import Load
from benchmarks.catalogue import PEERS, PRODUCT_SERVER, Server
from benchmarks.measure import Findings
from benchmarks.plan import Plan
from benchmarks.record import Check, Run
from benchmarks.running import RunningServer
from benchmarks.workload import write_workload
from tests.benchmarks.servers import right, serving, target
from tests.benchmarks.test_run import visit, workload

PLAN = Plan(name="tiny", cases=(), slice_s=0.2, warmup_s=0.05, most_probes=1, longest_probe=1)
RATE_PER_S = 50.0
WAIT = "CLASSIFIER_MAX_WAIT_MS"
Starts = list[Mapping[str, str]]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Environments of the starts; who is not told to be patient refuses everything."""
    environments: Starts = []

    @contextlib.contextmanager
    def running(_server: Server, _python: str, **given: Any) -> Iterator[RunningServer]:
        environment = given["environment"]
        environments.append(environment)
        patient = WAIT in environment
        with serving(right if patient else lambda _number, _body: (429, b"{}")) as port:
            yield RunningServer(process=psutil.Process(), port=port, ready_s=len(environments))

    monkeypatch.setattr(measure, "running", running)
    monkeypatch.setenv(WAIT, "7")  # of the shell that measures: not for the servers
    return environments


def found(server: Server, folder: Path, *, searched: bool = False) -> Findings:
    image = folder / "0"
    image.write_bytes(b"0")
    work = dataclasses.replace(
        workload(), mixes={"digits": [str(image)]}, accepted={"digits": [[0]]}
    )
    write_workload(work, folder / "none.json")
    there = dataclasses.replace(
        visit(server),
        python=sys.executable,
        workload=work,
        workload_path=folder / "none.json",
        searched=searched,
    )
    return measure.measure(there, PLAN, (RATE_PER_S,), lambda _: None)


def test_this_project_is_saturated_without_refusals_and_offered_rates_as_it_serves(
    starts: Starts, tmp_path: Path
) -> None:
    runs = found(PRODUCT_SERVER, tmp_path, searched=True).runs

    assert [environment.get(WAIT) for environment in starts] == ["5000", None]
    saturated, *offered = runs
    assert (saturated.mode, saturated.failures) == ("closed", 0)
    assert saturated.answered_per_s > 0
    assert [run.given_up for run in offered] == [False, True]  # at the rate, and one probe
    assert all(run.mode == "open" and not run.latencies_ms for run in offered)


def test_a_visit_with_two_starts_has_the_time_of_the_first(starts: Starts, tmp_path: Path) -> None:
    (start,) = found(PRODUCT_SERVER, tmp_path).starts

    assert len(starts) == 2
    assert start.ready_s == 1


def test_a_peer_is_started_once(starts: Starts, tmp_path: Path) -> None:
    findings = found(PEERS[0], tmp_path)

    assert [environment.get(WAIT) for environment in starts] == [None]
    assert findings.highest_rates == []  # not in this round


def test_the_capacity_is_that_of_a_server_that_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[dict[str, str]] = []
    stored: list[Run] = []

    @contextlib.contextmanager
    def served(subject: promises.Subject) -> Iterator[Load]:
        started.append(subject.settings)
        with serving(right) as port:
            server = RunningServer(process=psutil.Process(), port=port, ready_s=1)
            yield Load(server=server, target=target(port))

    def store(_subject: promises.Subject, _check: Check, runs: list[Run]) -> Path:
        stored.extend(runs)
        return Path()

    monkeypatch.setattr(promises, "_served", served)
    monkeypatch.setattr(promises, "_stored", store)
    subject = promises.Subject(model="none", photos=Path(), settings={"CLASSIFIER_BUDGET_MS": "9"})

    promises.overload(subject, times=0.1, seconds=0.2)

    assert started == [{"CLASSIFIER_BUDGET_MS": "9", WAIT: "5000"}, {"CLASSIFIER_BUDGET_MS": "9"}]
    assert [run.mode for run in stored] == ["closed", "open"]
