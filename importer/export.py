"""Writes the network as graphs: ONNX, int8 and TorchScript, with a free batch dimension."""

import warnings
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import torch

from image_classifier.artifact.manifest import Graph
from importer.candidates import INT8_GRAPH, ONNX_GRAPH, TORCHSCRIPT_GRAPH
from importer.errors import ImportRefused
from importer.failures import describe_failure, quiet_exporter
from importer.graphs import EXTERNAL_BYTES, OnnxNetwork, write_graph_of_pixels
from importer.pixels_to_logits import PixelsToLogits
from importer.progress import Progress
from importer.quantise import quantise

OPSET = 20
"""ONNX operator set: the newest that both OpenVINO 2026.4 and onnxruntime 1.32 run whole."""
FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""Of members of a zip archive: the earliest date of its format."""


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
        graphs: What to write; of one that is made from another, both.
        network: In evaluation mode.
        inputs: Example inputs, shape (n, H, W, C); one if the network takes no batches.
        calibration: Inputs whose activations decide the ranges of int8, (m, H, W, C).
        root: The staging directory; the source of the network is in architecture/.

    Returns:
        Why each graph that failed could not be written, by file name.
    """
    failures: dict[str, str] = {}
    (root / "engines").mkdir(exist_ok=True)

    def attempt(graph: Graph, step: str) -> None:
        # Exporters raise what they like for a network they cannot take.
        try:
            with progress.step(step), quiet_exporter(step):
                if graph == ONNX_GRAPH:
                    export_onnx(network, inputs, root / graph.file)
                elif graph == INT8_GRAPH:
                    quantise(root / ONNX_GRAPH.file, calibration, root / graph.file)
                else:
                    export_torchscript(network, inputs, root / graph.file)
        except Exception as error:
            failures[graph.file] = describe_failure(step, error, root / "architecture")
            for path in (root / "engines").glob(f"{Path(graph.file).name}*"):
                path.unlink()  # what is left of a failed export

    wanted = tuple(graphs)
    if ONNX_GRAPH in wanted or INT8_GRAPH in wanted:
        attempt(ONNX_GRAPH, "export to ONNX")
    if INT8_GRAPH in wanted:
        if ONNX_GRAPH.file in failures:
            failures[INT8_GRAPH.file] = failures[ONNX_GRAPH.file]
        else:
            attempt(INT8_GRAPH, "quantise to int8")
    if TORCHSCRIPT_GRAPH in wanted:
        attempt(TORCHSCRIPT_GRAPH, "export to TorchScript")
    return failures


def export_onnx(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    """Write an ONNX graph, with large tensors in a file beside it (`path` and ".data").

    Args:
        network: In evaluation mode.
        inputs: Example inputs, shape (n, H, W, C), n of 1 or more.
        path: Where to write it.
    """
    if isinstance(network.network, OnnxNetwork):
        write_graph_of_pixels(network.network, network.input_spec, path)
    elif isinstance(network.network, torch.jit.ScriptModule):
        _export_script(network, inputs, path)
    else:
        _export_eager(network, inputs, path)


def _export_eager(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    program: Any = torch.onnx.export(
        network,
        (_example(inputs),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["batch"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
        verbose=False,
    )
    if isinstance(program.model.graph.inputs[0].shape[0], int):
        raise ImportRefused(
            "forward turns the batch size into a fixed number, as int(x.size(0)) does; use "
            "x.shape[0] as it is, or x.flatten(1)"
        )
    _forget_origin(program.model)
    tensors = (value.const_value for value in program.model.graph.initializers.values())
    external = any(tensor.nbytes >= EXTERNAL_BYTES for tensor in tensors)
    onnx_ir.save(
        program.model,
        path,
        external_data=f"{path.name}.data" if external else None,
        size_threshold_bytes=EXTERNAL_BYTES,
    )


def _export_script(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    # torch 2.14's exporter takes no ScriptModule; the older one, which does, is deprecated.
    with torch.no_grad():
        torch.onnx.export(
            _traced(network, inputs),
            (_example(inputs),),
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
    """Remove what the exporter notes of every node: where in which file the network computes it.

    These are paths of this machine, so the same model would get another tag elsewhere.
    """
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def export_torchscript(
    network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path
) -> None:
    """Write a traced TorchScript graph; arguments as for `export_onnx`.

    Raises:
        ImportRefused: The network is an ONNX file.
    """
    if isinstance(network.network, OnnxNetwork):
        raise ImportRefused("an ONNX file cannot become TorchScript")
    archive = BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # torch 2.14 says it will keep TorchScript for existing users only; ONNX is our default.
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(_traced(network, inputs)), archive)
    _write_without_origin(archive, path)


def _traced(network: PixelsToLogits, inputs: npt.NDArray[np.generic]) -> Any:
    return torch.jit.trace(  # type: ignore[no-untyped-call]
        network, _example(inputs), check_trace=False
    )


def _write_without_origin(archive: BytesIO, path: Path) -> None:
    """Copy a TorchScript archive without its debug members: paths of this machine.

    The serialization id is a checksum over these too, and nothing reads it.
    """
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            if not member.filename.endswith((".debug_pkl", ".data/serialization_id")):
                plain = zipfile.ZipInfo(member.filename, FIRST_DATE)
                target.writestr(plain, source.read(member))


def _example(inputs: npt.NDArray[np.generic]) -> torch.Tensor:
    # Two inputs: from a batch of one the exporter would take the batch dimension for a constant.
    return torch.from_numpy(inputs[[0, -1]] if len(inputs) > 1 else inputs.copy())
