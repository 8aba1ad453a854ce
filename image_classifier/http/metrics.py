"""Prometheus metrics of the requests: counts by outcome, seconds by stage, batch sizes."""

import os
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from image_classifier.inference.batcher import Answer
from image_classifier.inference.predictions import Prediction

STAGES = ("decode", "queue", "infer", "total")
STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds in seconds; closest around the default budget of 50 ms."""
PROBABILITY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class RequestMetrics:
    """What an operator sees of the requests.

    The labels have few values, fixed by the program: nothing a client sends makes a series.

    Args:
        outcomes: Every outcome of a request; each is counted from 0, so that the first burst
            is a rise.
    """

    def __init__(self, outcomes: Iterable[str]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "classifier_requests_total",
            "Requests by outcome: ok, client_gone, or the code of the error.",
            ["outcome"],
            registry=self._registry,
        )
        for outcome in outcomes:
            self._requests.labels(outcome)
        stages = Histogram(
            "classifier_stage_seconds",
            "Seconds of a classification by stage: decode, queue, infer, total.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch_sizes = Histogram(
            "classifier_batch_size",
            "Images in the batch of each classified image.",
            buckets=BATCH_BUCKETS,
            registry=self._registry,
        )
        self._top_probability = Histogram(
            "classifier_top_probability",
            "Probability of the first prediction; its mean moves when inputs drift.",
            buckets=PROBABILITY_BUCKETS,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "classifier_in_flight",
            "Requests being answered.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )

    def begin(self) -> None:
        """Count a request that came in."""
        self._in_flight.inc()

    def end(self, outcome: str) -> None:
        """Count a request that was answered: "ok", "client_gone" or the code of the error."""
        self._requests.labels(outcome).inc()
        self._in_flight.dec()

    def classified(self, answer: Answer, total_s: float) -> None:
        """Record one classified image; `total_s` seconds include reading the body."""
        self._stages["decode"].observe(answer.decode_ms / 1e3)
        self._stages["queue"].observe(answer.queue_ms / 1e3)
        self._stages["infer"].observe(answer.infer_ms / 1e3)
        self._stages["total"].observe(total_s)
        self._batch_sizes.observe(answer.batch_size)
        # No label may reach the threshold of the model, and scores are no probabilities.
        if answer.predictions and isinstance(answer.predictions[0], Prediction):
            self._top_probability.observe(answer.predictions[0].probability)

    def exposition(self) -> bytes:
        """Return the series of all processes of this server, in Prometheus' text format."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # set in each process of `bentoml serve`
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
