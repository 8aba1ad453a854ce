"""The engine of a workload in OpenVINO, as all peers but the eager one call it."""

import threading
from typing import Any

import numpy as np
import openvino
from openvino._offline_transformations import apply_moc_transformations

from benchmarks.peers.steps import Array, predictions, to_input
from benchmarks.workload import Workload


class Classifier:
    """The compiled engine; any number of threads may call it, each with its own infer request."""

    def __init__(self, workload: Workload, *, streams: int, threads: int) -> None:
        """Compile.

        Args:
            workload: Names the engine.
            streams: Inferences OpenVINO runs side by side; `threads` are divided among them.
            threads: Of this engine in total.
        """
        self.workload = workload
        core = openvino.Core()
        model = core.read_model(workload.engine)
        # Folds the shapes behind which torch's ONNX exporter puts the biases. Without it, int8
        # graphs with a free batch size give wrong logits (OpenVINO 2026.4.1, CPU); with a fixed
        # one, as this project compiles them, they do not need it.
        apply_moc_transformations(model, cf=True)
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "NUM_STREAMS": str(streams),
                "INFERENCE_NUM_THREADS": str(threads),
                "INFERENCE_PRECISION_HINT": workload.precision_hint,
            },
        )
        # In one thread: where two threads are the first to look at a tensor, OpenVINO 2026.4.1 and
        # numpy wait for each other for ever.
        _ = self._compiled.create_infer_request().get_input_tensor().data
        self._local = threading.local()

    def to_input(self, data: bytes) -> Array:
        """See the function of this name."""
        return to_input(data, self.workload)

    def forward(self, batch: Array) -> Array:
        """uint8 (n, crop_size, crop_size, 3) to float32 logits (n, classes)."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        request = self._local.request
        # `InferRequest.infer` copies its input unless told to share; `CompiledModel.__call__`
        # shares it, and OpenVINO 2026.4.1 then reads memory that is freed already.
        request.infer({0: np.ascontiguousarray(batch)}, share_inputs=False)
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)

    def classify(self, data: bytes) -> dict[str, Any]:
        """One file to its predictions."""
        return predictions(self.forward(self.to_input(data)[None])[0])
