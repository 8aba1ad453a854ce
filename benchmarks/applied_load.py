"""Load on one running server, each run with what it cost the server."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import highest_rate
from benchmarks.exchanges import Target
from benchmarks.load import closed_run, open_run
from benchmarks.plan import Plan
from benchmarks.record import HighestRate, Run, Verdict
from benchmarks.running import RunningServer

LOADGEN_PART = 0.9

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Applies load to one server.

    Attributes:
        round: From 0; part of every seed.
    """

    server: RunningServer
    target: Target
    round: int = 0

    def saturate(self, plan: Plan) -> Run:
        """Closed loop."""
        return self.keep_busy(plan.connections, plan.saturation_s)

    def keep_busy(
        self, connections: int, duration_s: float, *, most_requests: int | None = None
    ) -> Run:
        """Closed loop until the time is up or enough was sent."""
        return self._costed(
            lambda: closed_run(
                self.target,
                connections=connections,
                duration_s=duration_s,
                seed=self.round,
                most_requests=most_requests,
            )
        )

    def offer(
        self, rate_per_s: float, duration_s: float, *, give_up_above_ms: float | None = None
    ) -> Run:
        """Open loop; the seed follows from the rate and the round, so all servers get the same."""
        return self._costed(
            lambda: open_run(
                self.target,
                rate_per_s=rate_per_s,
                duration_s=duration_s,
                seed=round(rate_per_s * 1000) + self.round,
                give_up_above_ms=give_up_above_ms,
            )
        )

    def search(
        self, plan: Plan, saturated: Run, runs: list[Run], progress: Progress
    ) -> HighestRate:
        """Bisect below the saturated throughput; the probes are added to `runs`.

        Open runs that are there already and long enough count as probes. A probe ends as soon as
        it is certain to fail.
        """

        def passes(rate_per_s: float) -> bool:
            run = self.offer(
                rate_per_s,
                plan.probe_duration_s(rate_per_s),
                give_up_above_ms=plan.budget_ms,
            )
            runs.append(run)
            passed = highest_rate.within_budget(run, plan.budget_ms)
            progress(f"probe {in_words(run)}: {'passes' if passed else 'fails'}")
            return passed

        bracket = highest_rate.bisect(
            passes,
            known=highest_rate.known_from(
                runs,
                budget_ms=plan.budget_ms,
                saturated_per_s=saturated.answered_per_s,
            ),
            resolution=plan.resolution,
            most_probes=plan.most_probes,
        )
        return highest_rate.as_record(
            bracket, saturated, budget_ms=plan.budget_ms, rule=plan.rule_in_words()
        )

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
                "round": self.round,
                "server_cpu_s": round(self.server.cpu_s() - before_s, 3),
            }
        )


def in_words(run: Run) -> str:
    """One line for the progress output."""
    return (
        f"{run.offered_rate_per_s:g}/s p50 {run.percentile_ms(50):.1f} "
        f"p99 {run.percentile_ms(99):.1f} ms{blemishes(run)}"
    )


def blemishes(run: Run) -> str:
    """Failed and wrong answers, or nothing."""
    return f", {run.failures} failed {run.failed}, {run.wrong} wrong" * bool(
        run.failures or run.wrong
    )
