"""A linear network as a torch module and as ONNX graphs, with logits computed by hand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx.parser
import torch
from onnx import numpy_helper
from torch import nn

from importer.options import ImportOptions
from tests.imports import digits_options, spec_file

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.2)
SIDE, CLASSES = 4, 3
RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(SIDE * SIDE * 3, CLASSES)).astype(np.float32)
"""Logits are the flattened (C, H, W) input times this matrix."""
PIXELS = RNG.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.from_numpy(KERNEL))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.kernel


def expected() -> npt.NDArray[np.float64]:
    """Return the logits of PIXELS, computed by numpy in float64."""
    scaled = (PIXELS.astype(np.float64) / 255 - MEAN) / STD
    return scaled.transpose(0, 3, 1, 2).reshape(4, -1) @ KERNEL.astype(np.float64)


def onnx_linear(
    path: Path,
    *,
    inputs: str = "float[n,3,4,4] image",
    outputs: str = "float[n,3] out",
    flat: str = "flat = Flatten (planes)",
    layout: str = "0,1,2,3",
    end: str = "out = Identity (scores)",
    operators: str = '"": 17',
) -> Path:
    """Write the network as an ONNX file; the parts are in the syntax of `onnx.parser`.

    Args:
        flat: Computes "flat", (n, 48), from "planes".
        layout: Permutation that turns the input into "planes", (n, C, H, W).
        end: Computes "out" from "scores".
        operators: Operator sets; the function `exporter.Normalised`, a softmax, is always added.
    """
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: [{operators}, "exporter": 1]>
        linear ({inputs}) => ({outputs})
        <int64[2] one_row = {{1, 48}}, int64[1] last = {{1}}>
        {{
            floats = Cast <to = 1> (image)
            planes = Transpose <perm = [{layout}]> (floats)
            {flat}
            scores = MatMul (flat, kernel)
            {end}
        }}
        <domain: "exporter", opset_import: ["": 17]>
        Normalised (x) => (y) {{ y = Softmax <axis = 1> (x) }}
    """)
    model.graph.initializer.append(numpy_helper.from_array(KERNEL, "kernel"))
    onnx.save(model, path)
    return path


def options_for(weights: Path, golden: Path) -> ImportOptions:
    folder = golden.parent
    (folder / "labels.txt").write_text("ant\nbee\ncow")
    return digits_options(
        name="linear",
        network=None,
        weights=str(weights),
        preprocessing=spec_file(folder, {"crop": SIDE, "mean": list(MEAN), "std": list(STD)}),
        labels=str(folder / "labels.txt"),
        golden=golden,
        golden_labels=None,
    )
