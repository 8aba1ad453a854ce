"""A linear network as TorchScript's source and as ONNX graphs, and its logits by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from importer.options import ImportOptions
from tests.importer.trained_models import spec_file

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.2)
SIDE, CLASSES = 4, 3
RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(SIDE * SIDE * 3, CLASSES)).astype(np.float32)
"""Logits are the flattened (C, H, W) input times this matrix."""
PLANES_FIRST = {"NCHW": [0, 1, 2, 3], "NHWC": [0, 3, 1, 2]}
PIXELS = RNG.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.from_numpy(KERNEL))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.kernel


def expected(normalised: bool = True) -> npt.NDArray[np.float64]:
    """The logits of PIXELS, in numpy and float64: no torch, no graph."""
    scaled = PIXELS.astype(np.float64) / 255
    if normalised:
        scaled = (scaled - MEAN) / STD
    return scaled.transpose(0, 3, 1, 2).reshape(4, -1) @ KERNEL.astype(np.float64)


def onnx_linear(
    path: Path,
    *,
    batch: int | str = "n",
    layout: str = "NCHW",
    dtype: int = TensorProto.FLOAT,
    softmax: bool = False,
    flat_batch: int = 0,
) -> Path:
    """Flatten by Reshape to (flat_batch, 48), multiply; (n, 3) out."""
    sides = (batch, 3, SIDE, SIDE) if layout == "NCHW" else (batch, SIDE, SIDE, 3)
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(
            "Transpose",
            ["floats"],
            ["planes"],
            perm=[0, 1, 2, 3] if layout == "NCHW" else [0, 3, 1, 2],
        ),
        helper.make_node("Reshape", ["planes", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "kernel"], ["scores" if softmax else "out"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["out"], axis=1))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", dtype, sides)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (batch, CLASSES))],
        [
            numpy_helper.from_array(KERNEL, "kernel"),
            numpy_helper.from_array(np.array([flat_batch, SIDE * SIDE * 3], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def options_for(weights: Path, golden: Path, **changes: Any) -> ImportOptions:
    folder = golden.parent
    (folder / "labels.txt").write_text("ant\nbee\ncow")
    spec: dict[str, Any] = {"crop": SIDE, "mean": list(MEAN), "std": list(STD)}
    if changes.pop("plain", False):
        spec = {"crop": SIDE}
    given: dict[str, Any] = {
        "name": "linear",
        "weights": str(weights),
        "preprocessing": spec_file(folder, spec),
        "labels": folder / "labels.txt",
        "golden": golden,
        "measure_seconds": 0.001,
    }
    return ImportOptions.model_validate({**given, **changes})
