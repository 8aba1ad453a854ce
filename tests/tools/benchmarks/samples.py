"""Small sessions for the tests of the benchmark."""

from tools.benchmarks.session import CaseResult, Limit, Machine, Session, Visit
from tools.load import Run

MACHINE = Machine(cpu="one", cores=2, features=("avx2",), memory_gb=4, kernel="6.0")


def limit(**changes: object) -> Limit:
    """Two calls of 4 and 6 ms in a second."""
    defaults = {"work": "images", "streams": 2, "elapsed_s": 1.0, "latencies_ms": (4.0, 6.0)}
    return Limit.model_validate({**defaults, **changes})


def visit(server: str, *runs: Run, **changes: object) -> Visit:
    return Visit.model_validate({"server": server, "runs": runs, **changes})


def case_result(*visits: Visit, limits: tuple[Limit, ...] = ()) -> CaseResult:
    return CaseResult(
        model="none",
        images="digits",
        budget_ms=50,
        low_rate_per_s=5,
        limits=limits,
        visits=visits,
    )


def session(*cases: CaseResult) -> Session:
    return Session(
        name="full",
        date="2026-01-02T03:04:05+00:00",
        commit="0123456789",
        machine=MACHINE,
        load_average=0.5,
        cases=cases,
    )
