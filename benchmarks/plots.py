"""Latency over rate and latency distributions, as SVG that is the same for the same data."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.catalogue import OWN
from benchmarks.record import Session
from benchmarks.summary import runs_at, runs_of, servers

BUDGET_COLOUR = "0.5"


def latency_over_rate(
    session: Session, case: tuple[str, str], path: Path, *, budget_ms: float
) -> None:
    """p99 of every whole open run by its rate; the median line where a rate has several."""

    def draw(axes: Axes) -> None:
        for server in servers(session, case):
            by_rate: dict[float, list[float]] = defaultdict(list)
            for run in runs_of(session, case, server):
                whole = run.latencies_ms and not run.given_up
                if run.offered_rate_per_s is not None and whole:
                    by_rate[run.offered_rate_per_s].append(run.percentile_ms(99))
            rates = sorted(by_rate)
            middle = [sorted(by_rate[rate])[len(by_rate[rate]) // 2] for rate in rates]
            axes.plot(rates, middle, marker=".", linewidth=line_width(server), label=server)
        axes.axhline(budget_ms, color=BUDGET_COLOUR, linestyle="--", linewidth=1)
        axes.set(xlabel="offered requests per second (Poisson)", ylabel="p99 latency, ms")
        axes.set_yscale("log")

    _write(draw, path, title=f"{case[0]}, {case[1]}: p99 over rate")


def latency_distribution(
    session: Session, case: tuple[str, str], path: Path, *, rate_per_s: float
) -> None:
    """Share of requests answered within a time, at one rate, all rounds together."""

    def draw(axes: Axes) -> None:
        for server in servers(session, case):
            runs = runs_at(runs_of(session, case, server), rate_per_s)
            samples = sorted(sample for run in runs for sample in run.latencies_ms)
            sent = len(samples) + sum(run.failures for run in runs)
            if samples:
                shares = [(rank + 1) / sent for rank in range(len(samples))]
                # 400 points draw the curve; ten thousand make a file of a megabyte.
                step = max(1, len(samples) // 400)
                axes.plot(
                    samples[::step], shares[::step], linewidth=line_width(server), label=server
                )
        axes.set(xlabel="latency, ms", ylabel="share of requests")
        axes.set_xscale("log")

    _write(draw, path, title=f"{case[0]}, {case[1]}: latency at {rate_per_s:g}/s")


def line_width(server: str) -> float:
    """This project's own lines are the thick ones."""
    return 2.2 if server in OWN else 1.0


def common_rate(session: Session, case: tuple[str, str]) -> float | None:
    """The highest rate that most servers were offered; None without open runs."""
    offered: dict[float, set[str]] = defaultdict(set)
    for run in runs_of(session, case):
        if run.offered_rate_per_s is not None:
            offered[run.offered_rate_per_s].add(run.server)
    enough = (len(servers(session, case)) + 1) // 2
    return max((rate for rate, names in offered.items() if len(names) > enough), default=None)


def _write(draw: Callable[[Axes], None], path: Path, *, title: str) -> None:
    # A fixed salt and no date: the same session gives the same file.
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        # 20 colours: the strong ones first, more servers than those take the pale ones.
        shades = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
        axes.set_prop_cycle(color=[*shades[::2], *shades[1::2]])
        draw(axes)
        axes.set_title(title)
        axes.grid(visible=True, linewidth=0.3)
        figure.legend(loc="outside right upper", fontsize=7)  # beside the lines, not over them
        figure.savefig(path, format="svg", metadata={"Date": None})
