"""Ray Serve: one replica with `serve.batch`, decoding in threads before the batch."""

# The checker does not see this peer's packages: they are in an environment of its own.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return, attr-defined"

import asyncio
import sys
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import Array, predictions, workload_from_environment


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class ClassifierDeployment:
    """HTTP request to predictions."""

    def __init__(self) -> None:
        workload = workload_from_environment()
        self.classifier = Classifier(workload, streams=1, threads=workload.threads)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)
    async def infer(self, inputs: list[Array]) -> list[Array]:
        """What waited together, as one batch."""
        return list(await asyncio.to_thread(self.classifier.forward, np.stack(inputs)))

    async def __call__(self, request: Request) -> dict[str, Any]:
        """The file is the body."""
        data = await request.body()
        image = await asyncio.to_thread(self.classifier.to_input, data)
        return predictions(await self.infer(image))


if __name__ == "__main__":
    # Two logical processors for the replica and the proxy, however many the machine has.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(sys.argv[1])))
    serve.run(ClassifierDeployment.bind(), route_prefix="/classify", blocking=True)
