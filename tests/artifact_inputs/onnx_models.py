"""Small ONNX classifiers, right and wrong ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZES: tuple[str | int, ...] = ("n", 3, 4, 4)


def onnx_model(
    *,
    input_type: int = TensorProto.FLOAT,
    input_sizes: Sequence[str | int] = SIZES,
    output_sizes: Sequence[str | int | None] = ("n", 2),
    extra_inputs: int = 0,
    extra_outputs: int = 0,
    domain: str = "",
) -> onnx.ModelProto:
    """Flatten and multiply with ones: (n, 3, 4, 4) → (n, 2)."""
    weights = numpy_helper.from_array(np.ones((48, 2), np.float32), "weights")
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        *(helper.make_node("Identity", ["flat"], [f"more{i}"]) for i in range(extra_outputs)),
    ]
    if domain:
        nodes.append(helper.make_node("Odd", ["flat"], ["odd"], domain=domain))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", input_type, input_sizes)]
        + [helper.make_tensor_value_info(f"in{i}", 1, [1]) for i in range(extra_inputs)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_sizes)]
        + [helper.make_tensor_value_info(f"more{i}", 1, ["n", 48]) for i in range(extra_outputs)],
        [weights],
    )
    imports = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def saved_onnx(path: Path, **options: object) -> Path:
    path.write_bytes(onnx_model(**options).SerializeToString())
    return path
