"""One visit to one server: start, warm up, saturate, offer rates, search, stop."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import highest_rate
from benchmarks.catalogue import NULL, Server
from benchmarks.load import Target, closed_run, open_run
from benchmarks.plan import Plan
from benchmarks.record import HighestRate, Run, Start, Verdict
from benchmarks.running import RunningServer, running
from benchmarks.workload import Workload

LOADGEN_PART = 0.9
OVERLOAD = 1.2
"""Rates beyond this multiple of the saturated throughput are not offered: the queue only grows."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Where and when a server is measured.

    Attributes:
        python: Of the server's environment.
        round: From 0; also part of every seed.
        loadgen_s: Length of LoadGen's Server scenario; 0 leaves it out.
    """

    server: Server
    python: str
    workload: Workload
    workload_path: Path
    mix: str
    round: int
    log_path: Path
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

    Raises:
        ServerFailed: It did not start or did not answer correctly.
    """
    found = Findings()
    probe = target_of(visit.server, visit.workload, visit.mix, port=0)
    with running(
        visit.server,
        visit.python,
        workload_path=visit.workload_path,
        log_path=visit.log_path,
        probe=probe,
    ) as server:
        load = Load(visit=visit, server=server, target=replace(probe, port=server.port))
        closed_run(load.target, connections=4, duration_s=plan.warmup_s, seed=0)
        saturated = load.saturate(plan)
        found.runs.append(saturated)
        progress(f"saturated {saturated.answered_per_s:.1f}/s{_blemishes(saturated)}")
        for rate_per_s in reachable(rates_per_s, saturated):
            run = load.offer(rate_per_s, plan.rate_s)
            found.runs.append(run)
            progress(in_words(run))
        if visit.server is not NULL:
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
                ready_s=server.ready_s,
                memory_mb=server.memory_mb(),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Load:
    """Applies load to the server of a visit and adds what only the visit knows."""

    visit: Visit
    server: RunningServer
    target: Target

    def saturate(self, plan: Plan) -> Run:
        """Closed loop."""
        return self._costed(
            lambda: closed_run(
                self.target,
                connections=plan.connections,
                duration_s=plan.saturation_s,
                seed=self.visit.round,
            )
        )

    def offer(self, rate_per_s: float, duration_s: float) -> Run:
        """Open loop; the seed follows from the rate and the round, so all servers get the same."""
        return self._costed(
            lambda: open_run(
                self.target,
                rate_per_s=rate_per_s,
                duration_s=duration_s,
                seed=round(rate_per_s * 1000) + self.visit.round,
            )
        )

    def search(
        self, plan: Plan, saturated: Run, runs: list[Run], progress: Progress
    ) -> HighestRate:
        """Bisect below the saturated throughput; the probes are added to `runs`."""

        def passes(rate_per_s: float) -> bool:
            run = self.offer(rate_per_s, highest_rate.probe_duration_s(rate_per_s, plan.probe_s))
            runs.append(run)
            passed = highest_rate.within_budget(run, plan.budget_ms)
            progress(f"probe {in_words(run)}: {'passes' if passed else 'fails'}")
            return passed

        bracket = highest_rate.bisect(
            passes,
            # Beyond its throughput a queue only grows; 10 % are for the noise of that number.
            ceiling_per_s=saturated.answered_per_s * 1.1,
            resolution_per_s=plan.resolution_per_s,
        )
        rule = highest_rate.rule_in_words(
            budget_ms=plan.budget_ms,
            probe_s=plan.probe_s,
            resolution_per_s=plan.resolution_per_s,
        )
        return highest_rate.as_record(bracket, runs[-1], budget_ms=plan.budget_ms, rule=rule)

    def loadgen(self, plan: Plan, highest_per_s: float, duration_s: float) -> Verdict:
        """LoadGen's Server scenario at 90 % of the highest rate, so that luck does not decide."""
        # Here and not above: a session without the scenario does not need the package.
        from benchmarks.loadgen_server_scenario import server_scenario

        return server_scenario(
            self.target,
            rate_per_s=round(LOADGEN_PART * highest_per_s, 1),
            budget_ms=plan.budget_ms,
            duration_s=duration_s,
        )

    def _costed(self, run: Callable[[], Run]) -> Run:
        before_s = self.server.cpu_s()
        done = run()
        return done.model_copy(
            update={
                "round": self.visit.round,
                "server_cpu_s": round(self.server.cpu_s() - before_s, 3),
            }
        )


def reachable(rates_per_s: tuple[float, ...], saturated: Run) -> tuple[float, ...]:
    """The rates worth offering."""
    return tuple(rate for rate in rates_per_s if rate <= OVERLOAD * saturated.answered_per_s)


def in_words(run: Run) -> str:
    """One line for the progress output."""
    return (
        f"{run.offered_rate_per_s:g}/s p50 {run.percentile_ms(50):.1f} "
        f"p99 {run.percentile_ms(99):.1f} ms{_blemishes(run)}"
    )


def _blemishes(run: Run) -> str:
    return f", {run.failures} failed {run.failed}, {run.wrong} wrong" * bool(
        run.failures or run.wrong
    )
