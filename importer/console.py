"""Progress and results on a terminal."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.table import Table

from artifact.manifest import Manifest
from artifact.record import EngineAttempt, ImportRecord
from inference.latency import best_point


class Progress(Protocol):
    """Told what is being done."""

    def note(self, text: str) -> None:
        """Something worth knowing about the step."""

    def step(self, title: str) -> AbstractContextManager[None]:
        """A step, for as long as it takes."""


class TerminalProgress:
    """One line a step, with its duration, on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._console.print(f"  {text}", style="dim", markup=False)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """See `Progress`."""
        started = time.perf_counter()
        with self._console.status(title):
            yield
        seconds = time.perf_counter() - started
        self._console.print(f"✓ {title} ({seconds:.1f} s)", markup=False)


def print_summary(tag: str, known: bool, record: ImportRecord, manifest: Manifest) -> None:
    """The table of engines and the tag, on standard output."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("engine", "max |Δlogit|", "top-1 agreement", "batch 1", "best", "verdict"):
        table.add_column(title, justify="left" if title in ("engine", "verdict") else "right")
    for attempt in record.attempts:
        table.add_row(*_cells(attempt, record.plan.engine, record.budget_ms))
    console.print(table)
    for attempt in record.attempts:
        if attempt.reason:
            console.print(f"{attempt.engine}: {attempt.reason}", markup=False, soft_wrap=True)
    plan = record.plan
    console.print(
        f"\nserves with {plan.engine}: {plan.streams} streams, {plan.threads} threads, "
        f"batch sizes {', '.join(map(str, plan.batch_sizes))}"
        f"{', a lone image on all threads' if plan.solo else ''}; "
        f"{len(manifest.golden)} golden samples",
        soft_wrap=True,
    )
    console.print(f"{'already in the store' if known else 'imported'}: {tag}", style="bold")


def _cells(attempt: EngineAttempt, chosen: str, budget_ms: float) -> Sequence[str]:
    single = [point for point in attempt.curve if point.batch_size == 1]
    fastest = min(single, key=lambda point: point.latency_ms, default=None)
    best = best_point(attempt.engine, attempt.curve, budget_ms) if attempt.curve else None
    difference, agreement = attempt.max_logit_difference, attempt.top1_agreement
    return (
        attempt.engine,
        "–" if difference is None else f"{difference:.2g}",
        "–" if agreement is None else f"{agreement:.1%}",
        "–" if fastest is None else f"{fastest.latency_ms:.2f} ms",
        "–" if best is None else f"{best.images_per_s:.0f}/s",
        "chosen" if attempt.engine == chosen else attempt.verdict,
    )


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")
