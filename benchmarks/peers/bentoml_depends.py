"""BentoML as its documentation shows it: an API service that `depends` on a batchable model."""

# The checker does not see this peer's packages: they are in an environment of its own.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return, attr-defined"

from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.steps import predictions, to_input, workload_from_environment

workload = workload_from_environment()


@bentoml.service
class Model:
    """Owns the engine; BentoML gathers the calls into batches."""

    def __init__(self) -> None:
        self.classifier = Classifier(workload, streams=1, threads=workload.threads)

    @bentoml.api(batchable=True)
    def forward(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) to logits (n, classes)."""
        return self.classifier.forward(batch)


@bentoml.service
class API:
    """The form upload."""

    model = bentoml.depends(Model)

    @bentoml.api
    async def classify(self, image: Path) -> dict[str, Any]:
        """Decode here, infer there."""
        logits = await self.model.to_async.forward(to_input(image.read_bytes(), workload)[None])
        return predictions(logits[0])
