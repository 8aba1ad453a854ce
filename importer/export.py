"""Writes the network as a graph: ONNX or TorchScript, with a free batch dimension."""

import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from importer.errors import ImportRefused
from importer.network import PixelsToLogits
from importer.onnx_graph import write_graph_of_pixels
from importer.onnx_network import OnnxNetwork
from importer.onnx_writing import write_onnx

OPSET = 20
"""ONNX operator set: the newest that both OpenVINO 2026.4 and onnxruntime 1.32 run whole."""
FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""Of members of a zip archive: the earliest its format can say."""


def export_onnx(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    """Write an ONNX graph.

    Args:
        network: In evaluation mode.
        inputs: Example inputs, shape (n, H, W, C), n of 1 or more.
        path: Where to write it.
    """
    if isinstance(network.network, OnnxNetwork):
        write_graph_of_pixels(network.network, network.signature, path)
    elif isinstance(network.network, torch.jit.ScriptModule):
        _export_script(network, inputs, path)
    else:
        _export_eager(network, inputs, path)


def _export_eager(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    with _quiet_exporter():
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
        _forget_origin(program.model)
        write_onnx(program, path)


def _export_script(network: PixelsToLogits, inputs: npt.NDArray[np.generic], path: Path) -> None:
    # torch 2.14's exporter takes no ScriptModule; the older one, which does, is deprecated.
    with _quiet_exporter(), torch.no_grad():
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


def _forget_origin(model: Any) -> None:
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
    return torch.from_numpy(inputs[[0, -1]])


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # The exporter warns about its own internals and logs every pass; failures still raise.
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
