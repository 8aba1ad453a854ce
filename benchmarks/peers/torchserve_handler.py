"""The handler TorchServe's worker runs: one batch of files to one list of answers."""

from typing import Any

import numpy as np

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import predictions, workload_from_environment


class ClassifierHandler:
    """TorchServe's custom handler: `initialize` once, `handle` for each batch."""

    def initialize(self, _context: Any) -> None:
        """Compile."""
        workload = workload_from_environment()
        self.classifier = Classifier(workload, streams=1, threads=workload.threads)

    def handle(self, data: list[dict[str, bytes]], _context: Any) -> list[dict[str, Any]]:
        """Each row holds one body."""
        files = [row.get("data") or row["body"] for row in data]
        inputs = np.stack([self.classifier.to_input(bytes(file)) for file in files])
        return [predictions(logits) for logits in self.classifier.forward(inputs)]
