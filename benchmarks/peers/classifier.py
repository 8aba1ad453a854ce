"""Bytes to predictions with Pillow and OpenVINO: the part all peers have in common."""

import os
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from PIL import Image

from benchmarks.workload import Workload, read_workload

TOP_K = 5
WORKLOAD_VARIABLE = "BENCHMARK_WORKLOAD"

Array = np.ndarray[Any, Any]


def workload_from_environment() -> Workload:
    """The workload this server was started for."""
    return read_workload(Path(os.environ[WORKLOAD_VARIABLE]))


def to_input(data: bytes, workload: Workload) -> Array:
    """Decode, resize and crop one file as torchvision's classification preset does.

    Returns:
        uint8 (crop_size, crop_size, 3), RGB.
    """
    image = Image.open(BytesIO(data)).convert("RGB")
    scale = workload.resize_size / min(image.size)
    # The longer side is truncated, not rounded (torchvision.transforms.functional.resize).
    width, height = (
        workload.resize_size if side == min(image.size) else int(side * scale)
        for side in image.size
    )
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left = round((width - workload.crop_size) / 2)
    top = round((height - workload.crop_size) / 2)
    return np.asarray(image)[top : top + workload.crop_size, left : left + workload.crop_size]


def predictions(logits: Array) -> dict[str, Any]:
    """The best classes of one image, as the answer of every peer has them.

    Args:
        logits: (classes,), float32.
    """
    exponentials = np.exp(logits - logits.max())
    best = np.argsort(-logits)[:TOP_K]
    return {
        "predictions": [
            {
                "label": f"class {index}",
                "class_id": int(index),
                "probability": float(exponentials[index] / exponentials.sum()),
            }
            for index in best
        ]
    }


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
        self._compiled = core.compile_model(
            core.read_model(workload.engine),
            "CPU",
            {
                "NUM_STREAMS": str(streams),
                "INFERENCE_NUM_THREADS": str(threads),
                "INFERENCE_PRECISION_HINT": workload.precision_hint,
            },
        )
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
