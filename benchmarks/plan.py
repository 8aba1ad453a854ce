"""What a session measures, for how long, and how long that takes in all."""

import dataclasses
import math
from dataclasses import dataclass

from benchmarks.catalogue import NULL, OWN, PRODUCT_SERVER, Server
from benchmarks.highest_rate import EXPECTED_REQUESTS, FLOOR_PART, probe_duration_s
from benchmarks.images import WEB_MIX
from preprocessing.errors import OperatorError

START_S = 5.0
"""Start and end of a server, on average: 2 s for this project, 15 s for Ray Serve or TorchServe."""
LIMIT_START_S = 2.0
"""Of one measurement of the limit: compiling, and its warmup."""
LIMITS = 5
"""Decode and infer: 2 preprocessings with one stream and with one a core, and one at the lowest
rate; every round."""
FORWARD_LIMITS = 6
"""The network alone: batches of 1, 4 and 8 with these numbers of streams, in the first round."""
LEAST_SLICE_S = 5.0


class PlanError(OperatorError):
    """The time given is too short, or a name is unknown."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model with one image mix.

    Attributes:
        architecture, precision: See `models`.
        mix: Name of the image mix.
        rates_per_s: Open-loop rates every server is offered.
        servers: Measured in this order in every round.
        loadgen_s: Length of LoadGen's Server scenario for this project in the last round; 0 leaves
            it out.
        budget_ms: Latency the p99 may take; None is the plan's.
        longest_probe: Slices that a probe lasts at most: more than one where the rates looked for
            are low; None is the plan's.
    """

    architecture: str
    precision: str
    rates_per_s: tuple[float, ...]
    servers: tuple[Server, ...]
    mix: str = WEB_MIX
    loadgen_s: float = 0
    budget_ms: float | None = None
    longest_probe: int | None = None

    @property
    def model(self) -> str:
        """Name of the workload."""
        return f"{self.architecture}-{self.precision}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A session.

    Attributes:
        slice_s: Length of a closed run, of a run at a fixed rate, of a usual probe, and of a
            measurement of the limit.
        rounds: Every round visits every server once, so that drift of the machine hits all; the
            null server is visited in the first.
        warmup_s: Closed-loop load before anything is recorded.
        connections: In flight in a closed run: enough to saturate 2 to 4 cores.
        budget_ms: Latency the p99 may take, where a case does not say.
        resolution: Of the search in the last round: the lowest rate that failed is at most this
            multiple of the highest that passed.
        most_probes: Of one search. From a tenth of the saturated throughput to the whole of it, 4
            leave a factor of 10^(1/16) = 1.155.
        longest_probe: Slices that a probe lasts at most, where a case does not say.
    """

    name: str
    cases: tuple[Case, ...]
    slice_s: float
    rounds: int = 1
    warmup_s: float = 2.0
    connections: int = 6
    budget_ms: float = 50.0
    resolution: float = 1.16
    most_probes: int = 4
    longest_probe: int = 3

    def of_case(self, case: Case) -> "Plan":
        """The plan with what a case has of its own."""
        return dataclasses.replace(
            self,
            budget_ms=case.budget_ms or self.budget_ms,
            longest_probe=case.longest_probe or self.longest_probe,
        )

    @property
    def saturation_s(self) -> float:
        """Length of a closed run."""
        return self.slice_s

    def probe_duration_s(self, rate_per_s: float) -> float:
        """Of the search, at this rate."""
        return probe_duration_s(
            rate_per_s, usual_s=self.slice_s, longest_s=self.longest_probe * self.slice_s
        )

    def rule_in_words(self) -> str:
        """How a search decides, for the record."""
        return (
            f"geometric bisection between {FLOOR_PART:g} of the saturated throughput and the whole "
            f"of it, to a factor of {self.resolution:g}, at most {self.most_probes} probes; a run "
            f"of {self.slice_s:g} s, or {EXPECTED_REQUESTS} expected arrivals but at most "
            f"{self.longest_probe * self.slice_s:g} s, passes with p99 <= {self.budget_ms:g} ms, "
            "no failure and no wrong answer; no rate is probed twice"
        )

    def duration_s(self) -> float:
        """Estimate of the whole session.

        Models and environments that are missing take longer. A probe that fails is given up early,
        one that passes lasts up to `longest_probe` slices, so half of the sum is counted.
        """
        fixed_s, slices = self._cost()
        return fixed_s + slices * self.slice_s

    def with_slices_for(self, seconds: float) -> "Plan":
        """This plan with the longest slices that end in time.

        Raises:
            PlanError: They would be shorter than 5 s: too few requests for a p99.
        """
        fixed_s, slices = self._cost()
        slice_s = (seconds - fixed_s) / slices
        if slice_s < LEAST_SLICE_S:
            least = (fixed_s + slices * LEAST_SLICE_S) / 60
            raise PlanError(
                f"{self.name}: {seconds / 60:.1f} minutes are too short for {self.rounds} "
                f"round(s) of {sum(len(case.servers) for case in self.cases)} servers; give "
                f"{least:.1f} minutes or more, or name fewer servers with --only"
            )
        return dataclasses.replace(self, slice_s=math.floor(10 * slice_s) / 10)

    def _cost(self) -> tuple[float, float]:
        """(seconds that do not depend on the slice, slices)."""
        fixed_s, slices = 0.0, 0.0
        for case in self.cases:
            limits = self.rounds * LIMITS + FORWARD_LIMITS
            fixed_s += limits * LIMIT_START_S
            slices += limits
            for server in case.servers:
                visits = 1 if server is NULL else self.rounds
                neighbours = 0 if server is NULL else visits  # limits measured before a visit
                starts = visits * (2 if server.name in OWN else 1)
                fixed_s += starts * (START_S + self.warmup_s) + neighbours * LIMIT_START_S
                slices += neighbours
                slices += visits * (1 + len(case.rates_per_s))
                slices += self._search_slices(case, server)
                fixed_s += case.loadgen_s if server is PRODUCT_SERVER else 0
        return fixed_s, slices

    def _search_slices(self, case: Case, server: Server) -> float:
        """Of one search, in the last round; the null server has none."""
        if server is NULL:
            return 0
        longest = self.of_case(case).longest_probe
        # float32 is slow, so that every probe is one at a low rate.
        return self.most_probes * (longest if server.float32 else (1 + longest) / 2)
