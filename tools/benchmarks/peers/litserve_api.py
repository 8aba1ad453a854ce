"""LitServe: a LitAPI with dynamic batching, decoding in `decode_request`."""

# This peer's packages are in the benchmark's own environment, where mypy does not look.
# mypy: disable-error-code="import-not-found, misc"

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from tools.benchmarks.peers.common import open_classifier, predictions
from tools.benchmarks.workload import Array, workload_from_environment


class ClassifierAPI(litserve.LitAPI):
    """The steps LitServe calls in its inference worker."""

    def setup(self, device: str) -> None:  # noqa: ARG002  (LitServe's signature)
        """Compile once in the worker process."""
        self.classifier = open_classifier(workload_from_environment())

    def decode_request(self, request: Request) -> Array:
        """Read the form that LitServe hands on; it takes no raw body."""
        return self.classifier.to_input(request["image"].file.read())

    def batch(self, inputs: list[Array]) -> Array:
        """Stack."""
        return np.stack(inputs)

    def predict(self, batch: Array) -> Array:
        """Infer one batch."""
        return self.classifier.forward(batch)

    def unbatch(self, output: Array) -> list[Array]:
        """Return one row for each request."""
        return list(output)

    def encode_response(self, output: Array) -> dict[str, Any]:
        """Turn logits into the answer."""
        return predictions(output)


if __name__ == "__main__":
    api = ClassifierAPI(max_batch_size=16, batch_timeout=0.002, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
