"""Benchmark sessions, with tiny servers instead of real ones."""

# psutil ships no types.
# mypy: disable-error-code="import-untyped"

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest

from tests.tools.benchmarks.samples import limit
from tests.tools.tiny_servers import right, serving
from tools import load
from tools import serving as server_processes
from tools.benchmarks import measure, session
from tools.benchmarks.images import DIGITS_MIX
from tools.benchmarks.presets import Case, Preset
from tools.benchmarks.seeded import near_best
from tools.benchmarks.servers import SERVERS
from tools.benchmarks.session import Visit, read_session
from tools.benchmarks.workload import Workload
from tools.serving import RunningServer, ServerFailed

CASE = Case(model="none", mix=DIGITS_MIX, low_rate_per_s=50)
PRODUCT, FASTAPI, *_ = SERVERS
WAIT = "CLASSIFIER_MAX_WAIT_MS"
Starts = list[Mapping[str, str]]


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    """One image, "0", whose class is 0."""
    image = tmp_path / "0"
    image.write_bytes(b"0")
    found = Workload(
        model="none",
        engine="",
        precision_hint="f32",
        preprocessing="",
        threads=1,
        store="store",
        lock="lock",
        files=(str(image),),
        accepted=((0,),),
    )
    path = tmp_path / "workload.json"
    path.write_text(found.model_dump_json())
    return path


@pytest.fixture(autouse=True)
def _own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "OWN_PYTHON", Path(sys.executable))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Record the environments of starts; servers without the waiting setting refuse everything."""
    environments: Starts = []

    @contextlib.contextmanager
    def running(_name: str, _command: object, **options: Any) -> Iterator[RunningServer]:
        environment = options["environment"]
        environments.append(environment)
        answer = right if WAIT in environment else lambda _number, _body: (429, b"{}")
        with serving(answer) as port:
            yield RunningServer(process=psutil.Process(), port=port, ready_s=len(environments))

    monkeypatch.setattr(server_processes, "running", running)
    monkeypatch.setattr(measure, "WARMUP_S", 0.05)
    monkeypatch.setattr(load, "DRAIN_S", 1.0)
    monkeypatch.setattr(measure, "measured_limit", lambda *_args, **_options: limit())
    monkeypatch.setenv(WAIT, "7")  # of the measuring shell, not for the servers
    return environments


@pytest.mark.slow
def test_this_project_is_saturated_without_refusals_and_offered_rates_with_them(
    starts: Starts, workload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Preset(cases=(), rounds=1, slice_s=0.2, probes=1, load_parts=(0.5,), overload=3)

    own, peer = (measure.visit(server, workload, CASE, preset, 0) for server in (PRODUCT, FASTAPI))

    assert own.saturated is not None
    capacity = own.saturated.answered_per_s
    assert capacity > 0
    assert own.saturated.failures == 0
    _, low, half, probe, overload = own.runs
    assert (low.rate_per_s, low.given_up, low.latencies_ms) == (50, False, ())
    assert half.rate_per_s == pytest.approx(0.5 * capacity, abs=0.1)
    assert overload.rate_per_s == pytest.approx(3 * capacity, abs=0.1)
    assert (probe.given_up, probe.latencies_ms) == (True, ())
    assert own.highest is not None
    assert own.highest.passed_per_s == 0
    assert own.ready_s == 1  # of the first start
    # A peer is started once, without the shell's settings, and not overloaded.
    assert [run.rate_per_s for run in peer.runs[:2]] == [None, 50]  # it answered nothing
    assert [environment.get(WAIT) for environment in starts] == ["5000", None, None]
    assert starts[-1]["BENCHMARK_WORKLOAD"] == str(workload)
    # A server that does not start gives a visit with the error.
    failing = Mock(side_effect=ServerFailed("FastAPI: ended with 3 while starting"))
    monkeypatch.setattr(server_processes, "running", failing)
    failed = measure.visit(FASTAPI, workload, CASE, preset, 0)
    assert (failed.error, failed.runs) == ("FastAPI: ended with 3 while starting", ())


@pytest.mark.slow
def test_a_load_with_broken_files_is_applied_to_each_server_in_two_parts(
    starts: Starts, workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "prepared", lambda *_: workload)

    path = measure.measured_load(
        "digits-fp32",
        tmp_path,
        servers=(PRODUCT, FASTAPI),
        settings={WAIT: "9"},
        seconds=0.4,
        rate_per_s=100,
        broken=0.5,
    )

    own, peer = read_session(path).cases[0].visits
    assert [environment.get(WAIT) for environment in starts] == ["9", None]
    assert [len(visit.runs) for visit in (own, peer)] == [2, 2]
    assert own.growth_mb is not None
    # The tiny server fails on files that are not numbers.
    assert 0 < own.runs[0].failed["lost"] < own.runs[0].sent
    assert peer.runs[0].failed == {"429": peer.runs[0].sent}


def test_rounds_alternate_and_the_session_is_saved_after_every_visit(
    workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[int, str]] = []

    def visit(server: Any, *args: Any) -> Visit:
        round_ = args[-1]
        order.append((round_, server.name))
        if len(order) == 4:
            raise KeyboardInterrupt
        return Visit(server=server.name, round=round_)

    monkeypatch.setattr(measure, "visit", visit)
    monkeypatch.setattr(measure, "prepared", lambda *_: workload)
    monkeypatch.setattr(measure, "measured_limit", lambda *_args, **_options: limit())
    preset = Preset(cases=(), rounds=2, slice_s=0.1, probes=0)

    with pytest.raises(KeyboardInterrupt):
        measure.measured_session("full", preset, ["digits-fp32"], (PRODUCT, FASTAPI), tmp_path)

    assert order == [
        (0, "this project"),
        (0, "FastAPI"),
        (1, "this project"),
        (1, "FastAPI"),
    ]
    (path,) = tmp_path.glob("*-full.json")
    assert len(read_session(path).cases[0].visits) == 3


def test_nearly_equal_logits_are_both_right() -> None:
    # The spread is 10: 0.02 of it is 0.2.
    assert near_best(np.array([1.0, 9.9, 10.0, 9.7, 0.0]), 0.02) == (2, 1)
