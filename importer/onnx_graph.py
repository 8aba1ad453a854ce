"""An existing ONNX classifier → the same with pixels as input and a free batch dimension."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from artifact.manifest import PreprocessingEntry
from importer.errors import ImportRefused
from importer.onnx_network import OnnxNetwork

PREFIX = "pixels_to_logits."
"""Of the names that are added; a graph that has such names was made here."""
ELEMENT_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
OLDEST_IR = 4
"""Before it, weights had to be listed as inputs."""


def write_graph_of_pixels(network: OnnxNetwork, signature: PreprocessingEntry, path: Path) -> None:
    """Write the graph with the normalisation in front: batch (n, H, W, C) in, logits out.

    Args:
        network: The original.
        signature: Shape, dtype and normalisation of the inputs.
        path: Where to write it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    free_batch_dimension(model, network)
    image = next(value for value in graph.input if value.name not in weights)
    nodes, constants = _front(network, signature, image.name)
    shape = ("n", *signature.input_shape)
    pixels = helper.make_tensor_value_info(
        f"{PREFIX}batch", ELEMENT_TYPES[signature.input_dtype], shape
    )
    kept = [*nodes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.append(pixels)
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    model.ir_version = max(model.ir_version, OLDEST_IR)
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def _front(
    network: OnnxNetwork, signature: PreprocessingEntry, image: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from the pixels to the original input, in the arithmetic of PixelsToLogits."""
    steps: list[tuple[str, dict[str, object], np.ndarray | None]] = []
    if not network.channels_last:
        steps.append(("Transpose", {"perm": [0, 3, 1, 2]}, None))
    takes = network.signature.input_dtype
    if takes == "uint8":
        _refuse_second_normalisation(signature)
    elif signature.mean is not None and signature.std is not None:
        shape = (-1,) if network.channels_last else (1, -1, 1, 1)
        steps.append(("Cast", {"to": TensorProto.FLOAT}, None))
        steps.append(("Div", {}, np.array(255, np.float32)))
        steps.append(("Sub", {}, np.array(signature.mean, np.float32).reshape(shape)))
        steps.append(("Div", {}, np.array(signature.std, np.float32).reshape(shape)))
    if takes == "float16":
        steps.append(("Cast", {"to": TensorProto.FLOAT16}, None))
    if not steps:
        steps.append(("Identity", {}, None))
    nodes, constants, before = [], [], f"{PREFIX}batch"
    for number, (kind, attributes, constant) in enumerate(steps):
        inputs = [before]
        if constant is not None:
            inputs.append(f"{PREFIX}constant{number}")
            constants.append(numpy_helper.from_array(constant, inputs[1]))
        before = image if number == len(steps) - 1 else f"{PREFIX}{number}"
        nodes.append(helper.make_node(kind, inputs, [before], f"{PREFIX}{kind}{number}"))
        for name, value in attributes.items():
            nodes[-1].attribute.append(helper.make_attribute(name, value))
    return nodes, constants


def _refuse_second_normalisation(signature: PreprocessingEntry) -> None:
    given = (*(signature.mean or ()), *(signature.std or ()))
    channels = signature.input_shape[2]
    if signature.input_dtype != "uint8" or given != (0.0,) * channels + (1.0,) * channels:
        raise ImportRefused(
            f"the ONNX file takes uint8 pixels and normalises by itself, the preprocessing has "
            f"mean {signature.mean} and std {signature.std}; leave both out of it"
        )


def free_batch_dimension(model: onnx.ModelProto, network: OnnxNetwork) -> None:
    """Make the first size of input and output free where the file has it fixed.

    Shapes that Reshape nodes spell out with the batch size in front follow their input. Other
    places a batch size may hide in are found by the proof: engines are held to the reference in
    batches of two.
    """
    graph, fixed = model.graph, network.batch_size
    if fixed is None:
        return
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    for node, shape in list(_reshapes(graph)):
        if len(shape) and shape[0] == fixed and sizes.get(node.input[0], [None])[0] == fixed:
            name = f"{PREFIX}{node.output[0]}.shape"
            follows = np.array([0, *shape[1:]], np.int64)  # 0: as in the input
            graph.initializer.append(numpy_helper.from_array(follows, name))
            node.input[1] = name
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if len(value.type.tensor_type.shape.dim) and value.name not in {
            tensor.name for tensor in graph.initializer
        }:
            value.type.tensor_type.shape.dim[0].dim_param = "n"


def _reshapes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, np.ndarray]]:
    """Reshape nodes whose shape is a constant, with that shape."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] in constants:
            yield node, numpy_helper.to_array(constants[node.input[1]])
