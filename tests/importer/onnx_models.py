"""Small ONNX classifiers, right and wrong ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def saved_onnx(path: Path, **options: Any) -> Path:
    path.write_bytes(onnx_model(**options).SerializeToString())
    return path


def onnx_ending(path: Path, ending: str) -> Path:
    """Write a graph: flatten, times linspace(-1, 1, 96) as (48, 2), then nodes by name.

    The scores before the ending are "scores", the output is (n, 2) floats.
    """
    constants = {"zero": 0.0, "one": 1.0, "three": 3.0, "six": 6.0, "half": 0.5, "fifth": 0.2}
    parts: dict[str, list[tuple[str, list[str], dict[str, Any]]]] = {
        "": [("Identity", ["scores"], {})],
        "function Softmax": [("Normalised", ["scores"], {"domain": "exporter"})],
        "Exp/ReduceSum": [
            ("Exp", ["scores"], {}),
            ("ReduceSum", ["0", "last"], {"keepdims": 1}),
            ("Div", ["0", "1"], {}),
        ],
        "1/(1+Exp(-x))": [
            ("Neg", ["scores"], {}),
            ("Exp", ["0"], {}),
            ("Add", ["1", "one"], {}),
            ("Div", ["one", "2"], {}),
        ],
        "Reciprocal(1+Exp(-x))": [
            ("Neg", ["scores"], {}),
            ("Exp", ["0"], {}),
            ("Add", ["one", "1"], {}),
            ("Reciprocal", ["2"], {}),
        ],
        "Exp(x-max)/ReduceSum": [
            ("ReduceMax", ["scores"], {"axes": [1]}),
            ("Sub", ["scores", "0"], {}),
            ("Exp", ["1"], {}),
            ("ReduceSum", ["2", "last"], {"keepdims": 1}),
            ("Div", ["2", "3"], {}),
        ],
        "x-ReduceLogSumExp": [
            ("ReduceLogSumExp", ["scores"], {"axes": [1]}),
            ("Sub", ["scores", "0"], {}),
        ],
        "Swish of parts": [
            ("Neg", ["scores"], {}),
            ("Exp", ["0"], {}),
            ("Add", ["1", "one"], {}),
            ("Div", ["scores", "2"], {}),
        ],
        "Clip(x*0.2+0.5,0,1)": [
            ("Mul", ["fifth", "scores"], {}),
            ("Add", ["0", "half"], {}),
            ("Clip", ["1", "zero", "one"], {}),
        ],
        "Clip(x+3,0,6)/6": [
            ("Add", ["scores", "three"], {}),
            ("Clip", ["0", "zero", "six"], {}),
            ("Div", ["1", "six"], {}),
        ],
        "ArgMax Cast": [
            ("ArgMax", ["scores"], {"axis": 1, "keepdims": 1}),
            ("Cast", ["0"], {"to": TensorProto.FLOAT}),
        ],
        "TopK": [("TopK", ["scores", "k"], {"axis": 1})],
    }
    steps = parts.get(ending) or [
        (kind, [str(number - 1) if number else "scores"], {"to": 1} if kind == "Cast" else {})
        for number, kind in enumerate(ending.split())
    ]
    kernel = np.linspace(-1, 1, 96, dtype=np.float32).reshape(48, 2)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "kernel"], ["scores"]),
    ]
    for number, (kind, inputs, attributes) in enumerate(steps):
        name = "out" if number == len(steps) - 1 else str(number)
        outputs = [name, "places"] if kind == "TopK" else [name]
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("exporter", 1)]
    softmax = helper.make_function(
        "exporter", "Normalised", ["x"], ["y"], [helper.make_node("Softmax", ["x"], ["y"], axis=1)],
        opsets[:1],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SIZES)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ("n", None))],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.array([1], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "k"),
            *(
                numpy_helper.from_array(np.asarray(item, np.float32), name)
                for name, item in constants.items()
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[softmax], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
