"""One SVG per case: p99 over the offered rate, and latencies at the low rate."""

from collections import defaultdict
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tools.benchmarks.servers import PRODUCT
from tools.benchmarks.session import CaseResult
from tools.load import Run

POINTS = 150
"""Points of a distribution; ten thousand would make a file of a megabyte."""


def draw_case(result: CaseResult, path: Path) -> None:
    """Write the plots of a case; the same session gives the same file."""
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        rates, shares = figure.subplots(1, 2)
        for server in result.servers:
            visits = [visit for visit in result.visits if visit.server == server]
            width = 2.2 if server == PRODUCT else 1.0
            _p99_over_rate(rates, server, [run for visit in visits for run in visit.runs], width)
            low = [run for visit in visits if (run := visit.at(result.low_rate_per_s))]
            _distribution(shares, low, width)
        rates.axhline(result.budget_ms, color="0.5", linestyle="--", linewidth=1)
        rates.set(xlabel="offered requests a second (Poisson)", ylabel="p99, ms", yscale="log")
        shares.set(
            xlabel=f"latency at {result.low_rate_per_s:g}/s, ms",
            ylabel="share of requests",
            xscale="log",
        )
        for axis in (rates.yaxis, shares.xaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        for axes in (rates, shares):
            axes.grid(visible=True, linewidth=0.3)
        figure.legend(loc="outside right upper")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _p99_over_rate(axes: Axes, server: str, runs: list[Run], width: float) -> None:
    by_rate: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        if run.rate_per_s is not None and run.latencies_ms and not run.given_up:
            by_rate[run.rate_per_s].append(run.percentile_ms(99))
    rates = sorted(by_rate)
    p99_ms = [median(by_rate[rate]) for rate in rates]
    axes.plot(rates, p99_ms, marker=".", linewidth=width, label=server)


def _distribution(axes: Axes, runs: list[Run], width: float) -> None:
    samples = sorted(sample for run in runs for sample in run.latencies_ms)
    sent = sum(run.sent for run in runs)
    shares = [(rank + 1) / sent for rank in range(len(samples))]
    step = max(1, len(samples) // POINTS)
    axes.plot(samples[::step], shares[::step], linewidth=width)
