"""LitServe: a LitAPI with dynamic batching, decoding in `decode_request`."""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from benchmarks.peers.classifier import (
    Array,
    Classifier,
    predictions,
    workload_from_environment,
)


class ClassifierAPI(litserve.LitAPI):
    """The four steps LitServe calls in its inference worker."""

    def setup(self, device: str) -> None:
        """Compile once in the worker process."""
        workload = workload_from_environment()
        self.classifier = Classifier(workload, streams=1, threads=workload.threads)

    async def decode_request(self, request: Request) -> Array:
        """The file is the body."""
        return self.classifier.to_input(await request.body())

    def batch(self, inputs: list[Array]) -> Array:
        """Stack."""
        return np.stack(inputs)

    def predict(self, batch: Array) -> Array:
        """Infer one batch."""
        return self.classifier.forward(batch)

    def unbatch(self, output: Array) -> list[Array]:
        """One row for each request."""
        return list(output)

    def encode_response(self, output: Array) -> dict[str, Any]:
        """Logits to the answer."""
        return predictions(output)


if __name__ == "__main__":
    api = ClassifierAPI(max_batch_size=16, batch_timeout=0.002, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
