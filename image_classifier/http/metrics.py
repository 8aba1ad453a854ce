"""Prometheus metrics of requests: counts by outcome, seconds by stage, batch sizes."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from image_classifier.artifact.evidence import CertifiedEngine
from image_classifier.http.schemas import ERRORS
from image_classifier.inference.batcher import Answer
from image_classifier.inference.predictions import Prediction

STAGES = ("decode", "queue", "infer", "total")
STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds in seconds; closest around the default budget of 50 ms."""
PROBABILITY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
CLIENT_GONE = "client_gone"
OUTCOMES = ("ok", CLIENT_GONE, *ERRORS)
"""Values of the label `outcome` of `classifier_requests_total`."""


class RequestMetrics(Collector):
    """The request metrics of this process.

    All label values are fixed by the program: clients cannot create series.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        requests = Counter(
            "classifier_requests_total",
            "Requests by outcome: ok, client_gone, or the code of the error.",
            ["outcome"],
            registry=self._registry,
        )
        # Created at 0, so that `rate()` sees the first burst.
        self._requests = {outcome: requests.labels(outcome) for outcome in OUTCOMES}
        stages = Histogram(
            "classifier_stage_seconds",
            "Seconds per classification by stage: decode, queue, infer; total from the read body.",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self._registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch_sizes = Histogram(
            "classifier_batch_size",
            "Size of the batch that each classified image ran in.",
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
        self._model = Gauge(
            "classifier_model_info",
            "1 for the model that is served.",
            ["tag", "engine", "precision"],
            multiprocess_mode="livemax",
            registry=self._registry,
        )

    def serves(self, tag: str, engine: CertifiedEngine) -> None:
        """Record which model and engine this process runs."""
        self._model.labels(tag, engine.name, engine.precision).set(1)

    def begin(self) -> None:
        """Count a request as in flight."""
        self._in_flight.inc()

    def end(self, outcome: str) -> None:
        """Count the outcome of a request that was in flight."""
        self.count(outcome)
        self._in_flight.dec()

    def count(self, outcome: str) -> None:
        """Count an outcome: "ok", "client_gone" or an error code."""
        self._requests[outcome].inc()

    def classified(self, answer: Answer, total_s: float) -> None:
        """Record one classified image; `total_s` begins once the body is read."""
        self._stages["decode"].observe(answer.decode_ms / 1e3)
        self._stages["queue"].observe(answer.queue_ms / 1e3)
        self._stages["infer"].observe(answer.infer_ms / 1e3)
        self._stages["total"].observe(total_s)
        self._batch_sizes.observe(answer.batch_size)
        # There may be no prediction above the model's threshold, or scores without a probability.
        if answer.predictions and isinstance(answer.predictions[0], Prediction):
            self._top_probability.observe(answer.predictions[0].probability)

    def collect(self) -> Iterator[Metric]:
        """Yield the series of all processes of this server, and what these processes cost."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:  # not a process of `bentoml serve`
            yield from self._registry.collect()
            return
        # prometheus_client sums gauges of ended processes, too, until their files are gone.
        for path in Path(folder).glob("gauge_live*_*.db"):
            if not psutil.pid_exists(int(path.stem.rpartition("_")[2])):
                path.unlink(missing_ok=True)
        collector = MultiProcessCollector(None, folder)  # type: ignore[no-untyped-call]
        yield from collector.collect()  # type: ignore[no-untyped-call]
        yield from server_costs(psutil.Process(os.getppid()))


def server_costs(supervisor: psutil.Process) -> Iterator[Metric]:
    """Yield memory and processor time of a supervisor and its workers together.

    Named as in prometheus_client's own collector, which knows one process only. This scans all
    processes of the machine.
    """
    memory_bytes, cpu_s = 0, 0.0
    for process in (supervisor, *supervisor.children()):
        with suppress(psutil.NoSuchProcess), process.oneshot():
            memory_bytes += process.memory_info().rss
            times = process.cpu_times()
            cpu_s += times.user + times.system
    yield GaugeMetricFamily(
        "process_start_time_seconds",
        "Start of the server, in Unix seconds.",
        supervisor.create_time(),
    )
    yield GaugeMetricFamily(
        "process_resident_memory_bytes",
        "Resident memory of all processes of the server; pages they share count for each.",
        memory_bytes,
    )
    yield CounterMetricFamily(
        "process_cpu_seconds",
        "Processor time of all processes of the server; falls when one is replaced.",
        cpu_s,
    )
