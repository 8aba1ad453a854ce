"""One visit to one server: start, warm up, saturate, offer rates, search, stop."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.applied_load import Load, Progress, blemishes, in_words
from benchmarks.catalogue import NULL, OWN, Server
from benchmarks.exchanges import Target
from benchmarks.load import closed_run
from benchmarks.plan import Plan
from benchmarks.record import HighestRate, Run, Start, Verdict
from benchmarks.running import (
    budget_setting,
    patient_setting,
    running,
    workload_environment,
)
from benchmarks.workload import Workload

OVERLOAD = 1.2
"""Rates beyond this multiple of the saturated throughput are not offered: the queue only grows."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Where and when a server is measured.

    Attributes:
        python: Of the server's environment.
        round: From 0; also part of every seed.
        searched: Whether the highest rate is looked for.
        loadgen_s: Length of LoadGen's Server scenario; 0 leaves it out.
    """

    server: Server
    python: str
    workload: Workload
    workload_path: Path
    mix: str
    round: int
    log_path: Path
    searched: bool = False
    loadgen_s: float = 0


@dataclass(kw_only=True)
class Findings:
    """What a visit brings home."""

    runs: list[Run] = field(default_factory=list)
    highest_rates: list[HighestRate] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


def target_of(server: Server, workload: Workload, mix: str, port: int) -> Target:
    """The requests of a mix in the server's dialect, with the answers that are right."""
    answers = workload.accepted_float32 if server.float32 else workload.accepted
    accepted = [frozenset(classes) for classes in answers[mix]]
    return Target(
        server=server.name,
        model=workload.model,
        images=mix,
        port=port,
        requests=tuple(
            server.dialect.request(Path(file).read_bytes()) for file in workload.mixes[mix]
        ),
        accepted=tuple([frozenset({0})] * len(accepted) if server is NULL else accepted),
        read_class=server.dialect.read_class,
    )


def measure(
    visit: Visit, plan: Plan, rates_per_s: tuple[float, ...], progress: Progress
) -> Findings:
    """Start the server and apply the plan.

    This project is started twice. Its saturated throughput is that of a server that refuses
    nothing, as no peer does; all else is measured with its usual limit of the wait.

    Raises:
        ServerFailed: It did not start or did not answer correctly.
    """
    found = Findings()
    own = visit.server.name in OWN
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(served(visit, plan, patient_setting() if own else {}))
        ready_s = load.server.ready_s
        saturated = load.saturate(plan)
        found.runs.append(saturated)
        progress(f"saturated {saturated.answered_per_s:.1f}/s{blemishes(saturated)}")
        memory_mb = load.server.memory_mb()
        if own:
            stack.close()
            load = stack.enter_context(served(visit, plan, {}))
        for rate_per_s in reachable(rates_per_s, saturated):
            run = load.offer(rate_per_s, plan.slice_s)
            found.runs.append(run)
            progress(in_words(run))
        if visit.searched:
            highest = load.search(plan, saturated, found.runs, progress)
            found.highest_rates.append(highest)
            if visit.loadgen_s and highest.rate_per_s:
                found.verdicts.append(load.loadgen(plan, highest.rate_per_s, visit.loadgen_s))
                progress(f"LoadGen: {'valid' if found.verdicts[-1].valid else 'invalid'}")
        found.starts.append(
            Start(
                server=visit.server.name,
                model=visit.workload.model,
                round=visit.round,
                ready_s=ready_s,
                memory_mb=max(memory_mb, load.server.memory_mb()),
            )
        )
    return found


@contextlib.contextmanager
def served(visit: Visit, plan: Plan, settings: Mapping[str, str]) -> Iterator[Load]:
    """The server, started and warm; `settings` are CLASSIFIER_* beside the budget."""
    probe = target_of(visit.server, visit.workload, visit.mix, port=0)
    with running(
        visit.server,
        visit.python,
        environment=workload_environment(
            visit.server,
            visit.workload_path,
            settings={**budget_setting(plan.budget_ms), **settings},
        ),
        log_path=visit.log_path,
        probe=probe,
    ) as server:
        load = Load(server=server, target=replace(probe, port=server.port), round=visit.round)
        closed_run(load.target, connections=4, duration_s=plan.warmup_s, seed=0)
        yield load


def reachable(rates_per_s: tuple[float, ...], saturated: Run) -> tuple[float, ...]:
    """The rates worth offering."""
    return tuple(rate for rate in rates_per_s if rate <= OVERLOAD * saturated.answered_per_s)
