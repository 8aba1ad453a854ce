"""What a session measures around the servers."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from benchmarks.catalogue import FORM_SERVER, NULL, PEERS, PRODUCT_SERVER, Server
from benchmarks.measure import Findings, Visit
from benchmarks.plan import Case, Plan
from benchmarks.record import Limit
from benchmarks.workload import Workload, write_workload
from tests.benchmarks.test_tables import limit

CORES = 3


def workload() -> Workload:
    return Workload(
        model="none",
        architecture="none",
        weights="",
        engine="",
        made_from="",
        store="",
        lock="",
        precision_hint="f32",
        resize_size=256,
        crop_size=224,
        mean=(0.5,),
        std=(0.5,),
        classes=10,
        threads=CORES,
        mixes={},
        accepted={},
        accepted_float32={},
    )


def visit(server: Server) -> Visit:
    return Visit(
        server=server,
        python="",
        workload=workload(),
        workload_path=Path("none.json"),
        mix="digits",
        round=1,
        log_path=Path("none.log"),
    )


@pytest.mark.parametrize("server", [PRODUCT_SERVER, FORM_SERVER, *PEERS], ids=lambda it: it.name)
def test_every_server_is_compared_with_the_limit_of_all_cores(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    asked: list[tuple[str, ...]] = []

    def limits(*arguments: str) -> list[Limit]:
        asked.append(arguments)
        return [limit()]

    monkeypatch.setattr(run, "_limits", limits)

    measured = run.limit_before(visit(server), 5)

    (arguments,) = asked
    assert arguments[arguments.index("--streams") + 1] == str(CORES)
    assert (measured.server, measured.round) == (server.name, 1)


def test_highest_rates_are_searched_in_the_last_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    visits: list[Visit] = []

    def measure(visit: Visit, *_: Any) -> Findings:
        visits.append(visit)
        return Findings()

    write_workload(workload(), tmp_path / "none.json")
    for name, replacement in {
        "prepared": lambda *_: tmp_path / "none.json",
        "RESULTS": tmp_path,
        "measured_limits": lambda *_: [],
        "limit_before": lambda *_: limit(),
        "measure": measure,
    }.items():
        monkeypatch.setattr(run, name, replacement)
    servers = (NULL, PRODUCT_SERVER, FORM_SERVER)
    case = Case(
        architecture="none", precision="fp32", rates_per_s=(5,), servers=servers, loadgen_s=9
    )

    run.Measurement(Plan(name="small", cases=(case,), slice_s=5, rounds=2), tmp_path).run()

    assert [(it.round, it.server.name, it.searched, it.loadgen_s) for it in visits] == [
        (0, "null server", False, 0),
        (0, "this project", False, 0),
        (0, "this project, form upload", False, 0),
        (1, "this project", True, 9),
        (1, "this project, form upload", True, 0),
    ]
