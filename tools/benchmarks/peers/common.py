"""The engine (OpenVINO, or torch on a GPU) and the JSON answer of all peers."""

import threading
from typing import Any

import numpy as np

from tools.benchmarks.seeded import MEAN, STD
from tools.benchmarks.workload import Array, Workload

TOP_K = 5


class GpuClassifier:
    """The network in torch, in bfloat16 on the GPU.

    Args:
        workload: Names a network of torchvision and its weights.
    """

    def __init__(self, workload: Workload) -> None:
        import torch
        import torchvision
        from safetensors.torch import load_file

        self.to_input = workload.input_maker()
        network: Any = getattr(torchvision.models, workload.network)(weights=None).eval()
        network.load_state_dict(load_file(workload.engine))
        self._network = network.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
        mean, std = (torch.tensor(it, device="cuda").view(3, 1, 1) * 255 for it in (MEAN, STD))
        self._normalise: Any = lambda pixels: ((pixels - mean) / std).to(torch.bfloat16)

    def forward(self, batch: Array) -> Array:
        """Infer uint8 (n, H, W, C); return float32 logits (n, classes)."""
        import torch

        with torch.inference_mode():
            pixels: Any = (
                torch.from_numpy(np.ascontiguousarray(batch)).to("cuda").permute(0, 3, 1, 2)
            )
            logits: Any = self._network(self._normalise(pixels))
        return np.asarray(logits.float().cpu().numpy())


class Classifier:
    """The compiled engine; thread-safe, with one infer request per thread."""

    def __init__(self, workload: Workload, *, streams: int = 1) -> None:
        """Compile.

        Args:
            workload: Names the engine.
            streams: Parallel inferences, which share the workload's threads.
        """
        import openvino
        from openvino._offline_transformations import apply_moc_transformations

        self.to_input = workload.input_maker()
        core = openvino.Core()
        model = core.read_model(workload.engine)
        # Folds shape computations of torch's ONNX exporter. Without it, int8 graphs with a dynamic
        # batch size give wrong logits (OpenVINO 2026.4.1, CPU); fixed sizes do not need it.
        apply_moc_transformations(model, cf=True)
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "NUM_STREAMS": str(streams),
                "INFERENCE_NUM_THREADS": str(workload.threads),
                "INFERENCE_PRECISION_HINT": workload.precision_hint,
            },
        )
        # First in a single thread: OpenVINO 2026.4.1 and numpy may deadlock when two threads are
        # the first to access a tensor.
        _ = self._compiled.create_infer_request().get_input_tensor().data
        self._local = threading.local()

    def forward(self, batch: Array) -> Array:
        """Infer uint8 (n, H, W, C); return float32 logits (n, classes)."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        request = self._local.request
        # `CompiledModel.__call__` would share the input, and OpenVINO 2026.4.1 then reads freed
        # memory.
        request.infer({0: np.ascontiguousarray(batch)}, share_inputs=False)
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)


def open_classifier(workload: Workload) -> Classifier | GpuClassifier:
    """Return the classifier of a workload."""
    return GpuClassifier(workload) if workload.network else Classifier(workload)


def predictions(logits: Array) -> dict[str, Any]:
    """Return the answer of all peers: the best classes of one image.

    Args:
        logits: (classes,), float32.
    """
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    return {
        "predictions": [
            {
                "label": f"class {index}",
                "class_id": int(index),
                "probability": float(probabilities[index]),
            }
            for index in np.argsort(-logits)[:TOP_K]
        ]
    }
