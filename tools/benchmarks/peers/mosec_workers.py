"""Mosec: preprocessing workers in front of a batching inference worker, as its examples do."""

# This peer's packages are in the benchmark's own environment, where mypy does not look.
# mypy: disable-error-code="import-not-found, misc"

from typing import Any

import numpy as np
from mosec import Server, Worker

from tools.benchmarks.peers.common import open_classifier, predictions
from tools.benchmarks.workload import Array, workload_from_environment

workload = workload_from_environment()


class Preprocess(Worker):
    """Turns bytes into an input, in a process of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.to_input = workload.input_maker()

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as the file."""
        return data

    def forward(self, data: bytes) -> Array:
        """Decode, resize, crop."""
        return self.to_input(data)


class Inference(Worker):
    """Turns batches of inputs into predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = open_classifier(workload)

    def forward(self, inputs: list[Array]) -> list[dict[str, Any]]:
        """Infer one batch."""
        return [predictions(logits) for logits in self.classifier.forward(np.stack(inputs))]


if __name__ == "__main__":
    server = Server()  # reads the command line: --address, --port
    server.append_worker(Preprocess, num=workload.threads)
    server.append_worker(Inference, num=1, max_batch_size=16, max_wait_time=2)
    server.run()
