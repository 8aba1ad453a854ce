"""BentoML as its documentation shows it: an API service that `depends` on a batchable model."""

# mypy: disable-error-code="misc, untyped-decorator, no-any-return, attr-defined"

from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from tools.benchmarks.peers.common import open_classifier, predictions
from tools.benchmarks.workload import workload_from_environment

workload = workload_from_environment()


@bentoml.service
class Model:
    """Owns the engine; BentoML gathers the calls into batches."""

    def __init__(self) -> None:
        self.classifier = open_classifier(workload)

    @bentoml.api(batchable=True)
    def forward(self, batch: np.ndarray) -> np.ndarray:
        """Infer uint8 (n, H, W, C); return logits (n, classes)."""
        return self.classifier.forward(batch)


@bentoml.service
class API:
    """Takes the form upload."""

    model = bentoml.depends(Model)

    def __init__(self) -> None:
        self.to_input = workload.input_maker()

    @bentoml.api
    async def classify(self, image: Path) -> dict[str, Any]:
        """Decode here, infer there."""
        logits = await self.model.to_async.forward(self.to_input(image.read_bytes())[None])
        return predictions(logits[0])
