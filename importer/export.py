"""Exports the network to ONNX, int8 and torch programs, with a dynamic batch dimension."""

import copy
import gc
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import onnx_ir.passes.common
import onnxscript.optimizer
import torch
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from image_classifier.artifact.manifest import Graph
from image_classifier.inference.engines.torch import MAX_BATCH, WEIGHTS_PREFIX
from importer.candidates import INT8_GRAPH, ONNX_GRAPH, TORCH_GRAPH
from importer.errors import ImportRefused
from importer.failures import FIXED_BATCH, describe_failure, quiet_exporter
from importer.graphs import EXTERNAL_BYTES, OnnxNetwork, write_graph_of_pixels
from importer.pixels_to_logits import PixelsToLogits
from importer.progress import Progress
from importer.quantise import quantise

OPSET = 20
"""ONNX operator set: the newest that OpenVINO 2026.4 and onnxruntime 1.32 both support fully."""
FOLD_BATCH_NORMALISATION = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


def export_all(
    graphs: Iterable[Graph],
    network: PixelsToLogits,
    inputs: npt.NDArray[np.generic],
    calibration: npt.NDArray[np.generic],
    root: Path,
    progress: Progress,
) -> dict[str, str]:
    """Write graphs of the network into a staging directory.

    Args:
        graphs: The graphs to write.
        network: In evaluation mode.
        inputs: Example inputs: two, (2, H, W, C), or one if the network takes no batches.
        calibration: Inputs whose activations decide the ranges of int8, (m, H, W, C).
        root: The staging directory; the source of the network is in architecture/.

    Returns:
        File name → reason, for each graph that could not be written.
    """
    failures: dict[str, str] = {}
    (root / "engines").mkdir(exist_ok=True)

    def attempt(graph: Graph, step: str) -> None:
        # Exporters raise all kinds of exceptions for networks that they do not support.
        try:
            with progress.step(step), quiet_exporter(step):
                if graph == ONNX_GRAPH:
                    export_onnx(network, inputs, root / graph.file)
                elif graph == INT8_GRAPH:
                    quantise(root / ONNX_GRAPH.file, calibration, root / graph.file)
                else:
                    export_program(network, inputs, root / graph.file)
        except Exception as error:
            failures[graph.file] = describe_failure(step, error, root / "architecture")
            for path in (root / "engines").glob(f"{Path(graph.file).name}*"):
                path.unlink()  # an incomplete file

    requested = tuple(graphs)
    if ONNX_GRAPH in requested or INT8_GRAPH in requested:
        attempt(ONNX_GRAPH, "export to ONNX")
    if INT8_GRAPH in requested:
        if ONNX_GRAPH.file in failures:
            failures[INT8_GRAPH.file] = failures[ONNX_GRAPH.file]
        else:
            attempt(INT8_GRAPH, "quantise to int8")
    if TORCH_GRAPH in requested:
        attempt(TORCH_GRAPH, "export to a torch program")
    return failures


def export_onnx(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    """Write an ONNX graph, with large tensors in a file beside it (`path` + ".data").

    Args:
        network: In evaluation mode.
        inputs: Example inputs, (n, H, W, C). Of one, the exporter makes the batch size a constant.
    """
    if isinstance(network.network, OnnxNetwork):
        write_graph_of_pixels(network.network, network.input_spec, path)
    elif isinstance(network.network, torch.jit.ScriptModule):
        _export_script(network, inputs, path)
    else:
        _export_eager(network, inputs, path)


def _export_eager(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    gc.disable()  # collections find nothing and take an eighth of the time
    try:
        program: Any = torch.onnx.export(
            network,
            (torch.from_numpy(inputs.copy()),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["batch"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            verbose=False,
            optimize=False,
        )
        _simplify(program.model)
    finally:
        gc.enable()
    if isinstance(program.model.graph.inputs[0].shape[0], int):
        raise ImportRefused(FIXED_BATCH)
    _forget_origin(program.model)
    tensors = (value.const_value for value in program.model.graph.initializers.values())
    external = any(tensor.nbytes >= EXTERNAL_BYTES for tensor in tensors)  # else an empty file
    onnx_ir.save(
        program.model,
        path,
        external_data=f"{path.name}.data" if external else None,
        size_threshold_bytes=EXTERNAL_BYTES,
    )


def _simplify(model: onnx_ir.Model) -> None:
    """Fold constants and batch normalisation, and remove unused nodes.

    OpenVINO would fold the batch normalisation for each engine that it compiles, and keep a copy of
    the weights before: two engines of ResNet-50 in bf16 take 244 MB more, and 0.2 s more to start.

    The exporter's own optimiser replaces `x + 1e-8` and `x * 1.000008` by `x` (onnxscript 0.7.2),
    which changes the answers of a network that divides by its contrast to images without any.
    """
    onnx_ir.passes.common.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model)
    rewrite(model, copy.deepcopy(FOLD_BATCH_NORMALISATION))  # a rule keeps its last match


def _export_script(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    # torch 2.14's exporter refuses ScriptModules; the older one, which takes them, is deprecated.
    with torch.no_grad():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, torch.from_numpy(inputs.copy()), check_trace=False
        )
        torch.onnx.export(
            traced,
            (torch.from_numpy(inputs.copy()),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["batch"],
            output_names=["logits"],
            dynamic_axes={"batch": {0: "n"}, "logits": {0: "n"}},
        )
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save_model(model, str(path))


def _forget_origin(model: onnx_ir.Model) -> None:
    """Remove the source file and line of every node: paths of this machine would change the tag."""
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def export_program(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    """Write a program of torch.export without the weights, which are in weights.safetensors.

    Raises:
        ImportRefused: The network is a finished graph.
    """
    if isinstance(network.network, (OnnxNetwork, torch.jit.ScriptModule)):
        raise ImportRefused(
            "torch.export takes a network of Python source, no finished graph; give --network, or "
            "use an engine that runs ONNX"
        )
    batch_size = torch.export.Dim("n", min=1, max=MAX_BATCH)
    program = torch.export.export(
        network, (torch.from_numpy(inputs.copy()),), dynamic_shapes=({0: batch_size},)
    )
    program.example_inputs = None
    program.graph_module.meta.clear()
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            _strip(module)
    for name, tensor in program.state_dict.items():
        if name.startswith(WEIGHTS_PREFIX):
            placeholder = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            if isinstance(tensor, torch.nn.Parameter):
                placeholder = torch.nn.Parameter(placeholder, requires_grad=False)
            program.state_dict[name] = placeholder
    with warnings.catch_warnings():
        # Expected: each placeholder stores one number for a whole tensor.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path)


def _strip(module: torch.fx.GraphModule) -> None:
    """Remove source paths of this machine, and assertions that values are float32 on a CPU."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        else:
            node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    module.recompile()
