"""Mosec: preprocessing workers in front of a batching inference worker, as its examples do."""

# The checker does not see this peer's packages: they are in an environment of its own.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return, attr-defined"

from typing import Any

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import Array, predictions, to_input, workload_from_environment

workload = workload_from_environment()


class Preprocess(Worker):
    """Bytes to an input, in a process of its own."""

    def deserialize(self, data: bytes) -> bytes:
        """The file is the body."""
        return data

    def forward(self, data: bytes) -> Array:
        """Decode, resize, crop."""
        return to_input(data, workload)


class Inference(Worker):
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
