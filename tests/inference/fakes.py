"""Engines with hand-computable answers, and their inputs."""

import threading
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from image_classifier.artifact.record import EngineAttempt, LatencyPoint, Plan
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.executor import Executor
from preprocessing import InputSpec

INPUT_SPEC = InputSpec(shape=(2, 3, 1), dtype="uint8", mean=(0.0,), std=(1.0,))
CLASSES = 2


def inputs(count: int) -> Batch:
    """Return uint8 (count, 2, 3, 1); every value of input i is i + 1, so that padding shows."""
    return np.repeat(np.arange(1, count + 1, dtype=np.uint8), 6).reshape(count, 2, 3, 1)


def expected(count: int) -> list[list[float]]:
    """Return the logits of `SumEngine` for `inputs(count)`: the sum of six equal values."""
    return [[6.0 * value, -6.0 * value] for value in range(1, count + 1)]


def attempt(engine: str, *rates: float, threads: int = 2) -> EngineAttempt:
    """Return an engine that passed, with its images per second in each round."""
    point = LatencyPoint(
        batch_size=1,
        streams=threads,
        threads=threads,
        latency_ms=1,
        images_per_s=median(rates),
        images_per_s_by_round=rates,
        single_ms_by_round=(1.0,) * len(rates),
    )
    return EngineAttempt(engine=engine, verdict="passed", curve=(point,), compared=point)


class SumEngine:
    """Logits are the sum of an input and its negation; the size of every batch is recorded.

    Args:
        before: Called with each batch before it runs, in the calling thread.
    """

    def __init__(self, before: Callable[[Batch], object] = lambda _: None) -> None:
        self.sizes: list[int] = []
        self.most_at_a_time = 0
        self._running = 0
        self._before = before
        self._lock = threading.Lock()

    def run(self, batch: Batch) -> Logits:
        with self._lock:
            self.sizes.append(len(batch))
            self._running += 1
            self.most_at_a_time = max(self.most_at_a_time, self._running)
        self._before(batch)
        with self._lock:
            self._running -= 1
        sums = batch.reshape(len(batch), -1).astype(np.float32).sum(axis=1)
        return np.stack([sums, -sums], axis=1)


class ConstantEngine:
    """Returns the same logits for every batch."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def run(self, batch: Batch) -> Logits:
        return self._logits


def plan(**changes: Any) -> Plan:
    """Return a plan, by default with one stream, one thread and batches of one."""
    default = {"engine": "one", "streams": 1, "threads": 1, "batch_sizes": (1,)}
    return Plan.model_validate({**default, "service_time_ms": 1, **changes})


def executor(
    engine: SumEngine | ConstantEngine,
    *batch_sizes: int,
    streams: int = 1,
    single_stream_engine: SumEngine | ConstantEngine | None = None,
    accelerator: str | None = None,
) -> Executor:
    return Executor(
        engine,
        plan(streams=streams, batch_sizes=batch_sizes, single_stream=bool(single_stream_engine)),
        INPUT_SPEC,
        CLASSES,
        single_stream_engine,
        accelerator=accelerator,
    )
