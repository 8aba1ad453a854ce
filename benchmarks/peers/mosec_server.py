"""Mosec: preprocessing workers in front of a batching inference worker, as its examples do."""

from typing import Any

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.classifier import (
    Array,
    Classifier,
    predictions,
    to_input,
    workload_from_environment,
)

workload = workload_from_environment()


class Preprocess(Worker):  # type: ignore[misc]  # mosec is not in the environment of the checker
    """Bytes to an input, in a process of its own."""

    def deserialize(self, data: bytes) -> bytes:
        """The file is the body."""
        return data

    def forward(self, data: bytes) -> Array:
        """Decode, resize, crop."""
        return to_input(data, workload)


class Inference(Worker):  # type: ignore[misc]
    """Batches of inputs to predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier(workload, streams=1, threads=workload.threads)

    def forward(self, inputs: list[Array]) -> list[dict[str, Any]]:
        """One batch."""
        return [predictions(logits) for logits in self.classifier.forward(np.stack(inputs))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Preprocess, num=workload.threads)
    server.append_worker(Inference, num=1, max_batch_size=16, max_wait_time=2)
    server.run()
