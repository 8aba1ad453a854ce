"""Compares three admission rules by simulation: prints the table and draws the plot of
docs/admission.md.

    python -m tests.inference.plot_admission
"""

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from image_classifier.errors import Overloaded
from image_classifier.inference.admission import Admission
from tests.inference.simulated_service import Clock, Expiring, Load, Rule, Service, bursts, poisson

PLOT = Path(__file__).resolve().parents[2] / "docs" / "admission.png"
BUDGET_S = 0.05
LONGEST_WAIT_S = 2.0
SERVERS = 2
GOOD_S = 2.1 * BUDGET_S


class NeverExpires:
    def refuse_if_expired(self) -> None:
        pass


class Estimate:
    """Refuses what would be answered later than twice the budget, by a cautious estimate."""

    def __init__(self, clock: Clock, interval_s: float) -> None:
        self._interval_s = interval_s
        self._in_flight = 0

    @contextmanager
    def reserve(self) -> Iterator[Expiring]:
        latency_s = 1.4 * (self._in_flight + 1) * self._interval_s
        if latency_s > 2 * BUDGET_S and self._in_flight >= SERVERS:
            raise Overloaded
        self._in_flight += 1
        try:
            yield NeverExpires()
        finally:
            self._in_flight -= 1


class StandingQueue:
    """Strict once the queue has not been empty for a second, until a second without refusal."""

    def __init__(self, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._in_flight = 0
        self._empty = clock()
        self._strict_until = 0.0

    def _limit_s(self) -> float:
        now = self._clock()
        if self._in_flight <= SERVERS:
            self._empty = now
        if now - self._empty >= 1 and now >= self._strict_until:
            self._strict_until = now + 1
            self._empty = now
        return BUDGET_S if now < self._strict_until else LONGEST_WAIT_S

    def refuse_beyond(self, wait_s: float) -> None:
        if wait_s > self._limit_s():
            if self._clock() < self._strict_until:
                self._strict_until = self._clock() + 1
            raise Overloaded

    @contextmanager
    def reserve(self) -> Iterator[Expiring]:
        self.refuse_beyond((self._in_flight + 1 - SERVERS) * self._interval_s)
        self._in_flight += 1
        try:
            yield WaitsSince(self, self._clock)
        finally:
            self._in_flight -= 1
            self._limit_s()


class WaitsSince:
    def __init__(self, rule: StandingQueue, clock: Clock) -> None:
        self._rule = rule
        self._clock = clock
        self._since = clock()

    def refuse_if_expired(self) -> None:
        self._rule.refuse_beyond(self._clock() - self._since)


def this_project(clock: Clock, interval_s: float) -> Admission:
    return Admission(
        max_in_flight=10_000,
        max_wait_ms=LONGEST_WAIT_S * 1e3,
        overload_wait_ms=BUDGET_S * 1e3,
        answer_interval_ms=interval_s * 1e3,
        parallel=SERVERS,
        clock=clock,
    )


RULES: dict[str, Callable[..., Rule]] = {
    "estimate": Estimate,
    "standing queue": StandingQueue,
    "this project": this_project,
}


def service(rule: str, service_s: float) -> Service:
    make = functools.partial(RULES[rule], interval_s=service_s / SERVERS)
    return Service(make, servers=SERVERS, service_s=service_s)


def print_table(service_s: float, seconds: float, burst: int) -> None:
    capacity = SERVERS / service_s
    loads = {f"{burst} at once": [0.0] * burst}
    for share in (0.33, 0.5, 0.8, 1.2, 3):
        loads[f"Poisson {share:g} ×"] = poisson(share * capacity, seconds)
    loads[f"0.8 × and {burst} each 5 s"] = loads["Poisson 0.8 ×"] + bursts(
        burst, every_s=5, seconds=seconds
    )
    rows = [[f"{SERVERS} × {service_s * 1e3:g} ms", *RULES], ["---"] * (len(RULES) + 1)]
    for name, arrivals in loads.items():
        cells = [name]
        for rule in RULES:
            result = service(rule, service_s).run(Load(arrivals=arrivals))
            goodput = "–" if len(arrivals) == burst else f"{result.goodput(GOOD_S, seconds):.2f}"
            late = f"{result.percentile_s(99) * 1e3:.0f} ms"
            cells.append(f"{100 * result.answered_share:.0f} %, {goodput}, {late}")
        rows.append(cells)
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in [*rows, []])


def draw() -> None:
    """A burst at 2 s, three times the capacity from 5 to 10 s, half of it otherwise."""
    arrivals = [*poisson(20, 5), *[2.0] * 24, *poisson(120, 5, begin=5), *poisson(20, 5, begin=10)]
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panels = figure.subplots(len(RULES), sharex=True, sharey=True)
    for axes, rule in zip(panels, RULES, strict=True):
        requests = service(rule, 0.05).run(Load(arrivals=arrivals)).requests
        answered = [one for one in requests if one.answered is not None]
        refused = [one for one in requests if one.refused is not None]
        axes.plot(
            [one.arrived for one in answered],
            [one.latency_s for one in answered],
            ".",
            markersize=3,
            label="answered",
        )
        axes.plot(
            [one.arrived for one in refused],
            [-0.1] * len(refused),
            "|",
            color="tab:red",
            label="refused",
        )
        axes.axhline(2 * BUDGET_S, color="0.5", linestyle="--", linewidth=1)
        axes.axvspan(5, 10, color="0.93")
        axes.set(title=f"{rule}: {len(answered)} of {len(requests)} answered", ylabel="latency, s")
    panels[0].legend(loc="upper right", framealpha=1)
    panels[-1].set_xlabel("arrival, s; 24 at once at 2 s; 3 × the capacity in the grey part")
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    logging.disable()
    draw()
    if "--plot" not in sys.argv:
        print_table(0.05, 60, 24)
        print_table(0.004, 10, 64)
