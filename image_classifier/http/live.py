"""The live view: what happened in each second, read from the metrics while somebody looks."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from image_classifier.http.metrics import RequestMetrics
from image_classifier.http.protocol import ClassifierProtocol

SAMPLE_EVERY_S = 1.0
SAMPLES_KEPT = 120

Reading = dict[tuple[str, str], float]
"""Values of the series by name and outcome or stage; "time" has the Unix seconds. The buckets of
the total duration are by their upper bound in seconds."""


class Sampler:
    """Reads the metrics once a second while somebody looks, however many do.

    Belongs to one event loop.
    """

    def __init__(self, metrics: RequestMetrics) -> None:
        self.viewers = 0
        self._events: deque[str] = deque(maxlen=SAMPLES_KEPT)
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._sampled = asyncio.Condition()

    async def watch(self) -> AsyncIterator[str]:
        """Yield server-sent events: the samples kept, then each further one."""
        self.viewers += 1
        if self._task is None:
            self._events.clear()
            self._task = asyncio.get_running_loop().create_task(self._sample())
        try:
            yield "retry: 2000\n\n"
            for event in tuple(self._events):
                yield event
            while not ClassifierProtocol.stopping:
                async with self._sampled:
                    await self._sampled.wait()
                    newest = self._events[-1]
                yield newest
        finally:
            self.viewers -= 1
            if not self.viewers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _sample(self) -> None:
        before = await asyncio.to_thread(read, self._metrics)
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            try:
                after = await asyncio.to_thread(read, self._metrics)
            except FileNotFoundError:  # of a process that ended meanwhile
                continue
            async with self._sampled:
                self._events.append(f"data: {json.dumps(between(before, after))}\n\n")
                self._sampled.notify_all()
            before = after


def read(metrics: RequestMetrics) -> Reading:
    """Read the series of all processes of this server."""
    reading = {("time", ""): time.time()}
    for metric in metrics.values():
        for sample in metric.samples:
            kind = sample.labels.get("outcome") or sample.labels.get("stage", "")
            if "le" not in sample.labels:
                reading[sample.name, kind] = sample.value
            elif kind == "total":
                reading["total_bucket", sample.labels["le"]] = sample.value
    return reading


def between(before: Reading, after: Reading) -> dict[str, Any]:
    """Return what all processes did between two readings; None where nothing was measured."""

    def grown(name: str, kind: str = "") -> float:
        return after.get((name, kind), 0.0) - before.get((name, kind), 0.0)

    def mean(name: str, kind: str = "") -> float | None:
        count = grown(f"{name}_count", kind)
        return grown(f"{name}_sum", kind) / count if count > 0 else None

    seconds = max(grown("time"), 1e-3)
    outcomes = {
        kind: grown(name, kind) / seconds
        for name, kind in after
        if name == "classifier_requests_total"
    }
    ok, refused = outcomes.pop("ok", 0.0), outcomes.pop("overloaded", 0.0)
    bounds = sorted((float(le), grown(name, le)) for name, le in after if name == "total_bucket")
    queue_s = mean("classifier_stage_seconds", "queue")
    return {
        "at": after["time", ""],
        "rate": ok,
        "refused": refused,
        "errors": sum(outcomes.values()),
        "in_flight": after.get(("classifier_in_flight", ""), 0.0),
        "p50_ms": percentile_ms(bounds, 0.50),
        "p99_ms": percentile_ms(bounds, 0.99),
        "queue_ms": None if queue_s is None else queue_s * 1e3,
        "batch_size": mean("classifier_batch_size"),
        "top_probability": mean("classifier_top_probability"),
    }


def percentile_ms(bounds: list[tuple[float, float]], share: float) -> float | None:
    """Estimate a percentile from a histogram, evenly spread within a bucket.

    Args:
        bounds: Upper bound in seconds and observations up to it, ascending, the last infinite.
    """
    total = bounds[-1][1] if bounds else 0.0
    if total <= 0:
        return None
    lower, below = 0.0, 0.0
    for upper, count in bounds[:-1]:
        if count >= share * total:
            return 1e3 * (lower + (upper - lower) * (share * total - below) / (count - below))
        lower, below = upper, count
    return 1e3 * lower  # in the last bucket, which has no upper bound
