"""An existing ONNX classifier as a network: the original graph, run by onnxruntime in fp32."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from artifact.checkpoints_graphs import OnnxSignature, check_onnx
from importer.errors import ImportRefused

OLDEST_OPSET = 7
"""From there on arithmetic broadcasts as the normalisation in front needs it (ONNX 1.2, 2018)."""
NUMPY_TYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}


class OnnxNetwork(nn.Module):
    """Pixels (n, C, H, W) in, logits (n, classes) out, as a network of torch would.

    A final Softmax is left out: what serves answers with the logits before it.

    Attributes:
        model: The graph without final Softmax, weights included.
        signature: Its input and output.
        cut_softmax: Whether there was one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.signature: OnnxSignature = check_onnx(path)
        if self.signature.opset < OLDEST_OPSET:
            raise ImportRefused(
                f"{path}: ONNX operator set {self.signature.opset}, expected {OLDEST_OPSET} or "
                "newer; export it again, or convert it with onnx.version_converter"
            )
        self.model = onnx.load(str(path))
        self.cut_softmax = _cut_final_softmax(self.model.graph)
        # The reference is computed on one thread: see importer.reference.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # its warnings are about the user's graph, not the import
        self._session = onnxruntime.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def channels_last(self) -> bool:
        """Whether the graph wants (n, H, W, C), as those converted from TensorFlow do."""
        _, first, _, last = self.signature.input_shape
        return first not in (1, 3) and last in (1, 3)

    @property
    def batch_size(self) -> int | None:
        """The batch size the graph is fixed to; None where it is free."""
        return self.signature.input_shape[0]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of normalised float32 pixels (n, C, H, W).

        A graph that takes uint8 normalises by itself: its pixels come in [0, 1].
        """
        if self.signature.input_dtype == "uint8":
            pixels = (pixels * 255).round().clamp(0, 255)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        count = len(pixels)
        if self.batch_size is not None:
            pixels = pixels.expand(self.batch_size, *pixels.shape[1:]) if count == 1 else pixels
        batch = np.ascontiguousarray(pixels.numpy(), dtype=NUMPY_TYPES[self.signature.input_dtype])
        try:
            (logits,) = self._session.run(None, {self.signature.input_name: batch})
        # onnxruntime's exceptions have no public base; torch's callers expect RuntimeError.
        except Exception as error:
            raise RuntimeError(" ".join(str(error).split())[:200]) from error
        return torch.from_numpy(np.asarray(logits[:count], dtype=np.float32))


def _cut_final_softmax(graph: onnx.GraphProto) -> bool:
    output = graph.output[0]
    for node in graph.node:
        if output.name in node.output and node.op_type == "Softmax":
            output.name = node.input[0]
            graph.node.remove(node)
            return True
    return False
