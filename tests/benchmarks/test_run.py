"""What a session measures around the servers."""

from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.catalogue import FORM_SERVER, PEERS, PRODUCT_SERVER, Server
from benchmarks.measure import Visit
from benchmarks.record import Limit
from benchmarks.workload import Workload
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
