"""MLServer: a custom runtime with adaptive batching, files as base64 in the V2 protocol."""

# The checker does not see this peer's packages: they are in an environment of its own.
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, no-any-return, attr-defined"

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.cli import main as mlserver_command
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.classifier import Classifier
from benchmarks.peers.ports import free_port
from benchmarks.peers.steps import predictions, workload_from_environment

MODEL = "classifier"


class ClassifierRuntime(MLModel):
    """Runs in MLServer's inference worker, the default of one process."""

    async def load(self) -> bool:
        """Compile."""
        workload = workload_from_environment()
        self.classifier = Classifier(workload, streams=1, threads=workload.threads)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One adaptive batch of files."""
        files = Base64Codec.decode_input(payload.inputs[0])
        texts = await asyncio.to_thread(self._classify, files)
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("predictions", texts)]
        )

    def _classify(self, files: list[bytes]) -> list[str]:
        inputs = np.stack([self.classifier.to_input(file) for file in files])
        return [json.dumps(predictions(logits)) for logits in self.classifier.forward(inputs)]


def start(port: int) -> None:
    """Write the settings MLServer reads and start it."""
    settings: dict[str, Any] = {
        "name": MODEL,
        "implementation": "benchmarks.peers.mlserver_runtime.ClassifierRuntime",
        "max_batch_size": 16,
        "max_batch_time": 0.002,
    }
    os.environ |= {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(free_port()),
        "MLSERVER_METRICS_PORT": str(free_port()),
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model-settings.json").write_text(json.dumps(settings))
        sys.argv = ["mlserver", "start", folder]
        mlserver_command()


if __name__ == "__main__":
    start(int(sys.argv[1]))
