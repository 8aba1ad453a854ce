"""The engine in OpenVINO, or in torch on a GPU, and the answer in JSON, as all peers have them."""

import threading
from typing import Any

import numpy as np

from tools.benchmarks.seeded import MEAN, STD
from tools.benchmarks.workload import Array, Workload

TOP_K = 5


class GpuClassifier:
    """The network in torch, bfloat16 on the GPU, as its users write it.

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
    """The compiled engine; any number of threads may call it, each with its own infer request."""

    def __init__(self, workload: Workload, *, streams: int = 1) -> None:
        """Compile.

        Args:
            workload: Names the engine.
            streams: Inferences OpenVINO runs side by side; the workload's threads are divided
                among them.
        """
        import openvino
        from openvino._offline_transformations import apply_moc_transformations

        self.to_input = workload.input_maker()
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
                "INFERENCE_NUM_THREADS": str(workload.threads),
                "INFERENCE_PRECISION_HINT": workload.precision_hint,
            },
        )
        # In one thread: where two threads are the first to look at a tensor, OpenVINO 2026.4.1 and
        # numpy wait for each other for ever.
        _ = self._compiled.create_infer_request().get_input_tensor().data
        self._local = threading.local()

    def forward(self, batch: Array) -> Array:
        """Infer uint8 (n, H, W, C); return float32 logits (n, classes)."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        request = self._local.request
        # `InferRequest.infer` copies its input unless told to share; `CompiledModel.__call__`
        # shares it, and OpenVINO 2026.4.1 then reads memory that is freed already.
        request.infer({0: np.ascontiguousarray(batch)}, share_inputs=False)
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)


def open_classifier(workload: Workload) -> Classifier | GpuClassifier:
    """Return what runs the network of a workload."""
    return GpuClassifier(workload) if workload.network else Classifier(workload)


def predictions(logits: Array) -> dict[str, Any]:
    """Return the best classes of one image, as the answer of every peer has them.

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
