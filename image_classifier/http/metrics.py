"""Prometheus metrics of the requests: counts by outcome, seconds by stage, batch sizes."""

from image_classifier.inference.batcher import Answer

STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds in seconds; closest around the default budget of 50 ms."""
PROBABILITY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class RequestMetrics:
    """What an operator sees of the requests.

    The labels have few values, fixed by the program: what a client sends never makes a series.
    """

    def __init__(self) -> None:
        # Not at the top: BentoML 1.4.39 says where the processes of a server put their metrics
        # together only after the service module is imported, and prometheus_client reads
        # that when it is imported itself.
        import prometheus_client

        self._requests = prometheus_client.Counter(
            name="classifier_requests_total",
            documentation="Requests by outcome: ok, or the code of the error.",
            labelnames=["outcome"],
        )
        self._stages = prometheus_client.Histogram(
            name="classifier_stage_seconds",
            documentation="Seconds of a classification by stage: decode, queue, infer, total.",
            labelnames=["stage"],
            buckets=STAGE_BUCKETS_S,
        )
        self._batch_sizes = prometheus_client.Histogram(
            name="classifier_batch_size",
            documentation="Images in the batch of each classified image.",
            buckets=BATCH_BUCKETS,
        )
        self._top_probability = prometheus_client.Histogram(
            name="classifier_top_probability",
            documentation="Probability of the first prediction; its mean moves when inputs drift.",
            buckets=PROBABILITY_BUCKETS,
        )
        self._in_flight = prometheus_client.Gauge(
            name="classifier_in_flight",
            documentation="Requests being answered.",
            multiprocess_mode="livesum",
        )
        self._stage = {
            name: self._stages.labels(stage=name) for name in ("decode", "queue", "infer", "total")
        }

    def begin(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def end(self, outcome: str) -> None:
        """A request was answered; `outcome` is "ok" or the code of the error."""
        self._requests.labels(outcome=outcome).inc()
        self._in_flight.dec()

    def classified(self, answer: Answer, total_s: float) -> None:
        """One image was classified in `total_s` seconds, reading the body included."""
        self._stage["decode"].observe(answer.decode_ms / 1e3)
        self._stage["queue"].observe(answer.queue_ms / 1e3)
        self._stage["infer"].observe(answer.infer_ms / 1e3)
        self._stage["total"].observe(total_s)
        self._batch_sizes.observe(answer.batch_size)
        self._top_probability.observe(answer.predictions[0].probability)
