"""Writes the network as a graph: ONNX or TorchScript, with a free batch dimension."""

import ctypes
import logging
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from importer.errors import ImportRefused
from importer.graphs import OnnxNetwork, write_graph_of_pixels
from importer.pixels_to_logits import PixelsToLogits

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
THRESHOLD_BYTES = 1 << 20


def return_freed_memory() -> None:
    """Give each allocation of 1 MiB or more a mapping of its own, returned when it is freed.

    glibc raises this threshold up to 32 MiB by itself as larger blocks are freed; the weights
    of a network then lie in one heap, which keeps its size whatever is freed in it. Importing
    ViT-L/16 (1.2 GB) peaked at 5.8 GB that way, and at 4.7 GB with a fixed threshold. Another
    C library has no `mallopt`, and keeps its own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)


# Field numbers of onnx.proto, as tags: number << 3 | 2 (length-delimited).
GRAPH = bytes([7 << 3 | 2])  # of ModelProto
INITIALIZER = bytes([5 << 3 | 2])  # of GraphProto
RAW_DATA = bytes([9 << 3 | 2])  # of TensorProto


def write_onnx(program: Any, path: Path) -> None:
    """Write what `torch.onnx.export` made as one file.

    Its own `save` serialises weights twice on the way: of a network of 1.2 GB that is 2.4 GB.
    The initializers are taken out of the program, which is of no use afterwards.

    Args:
        program: A `torch.onnx.ONNXProgram`.
        path: Where to write it.
    """
    graph = program.model.graph
    named = [(name, value.const_value) for name, value in graph.initializers.items()]
    tensors = [tensor for _, tensor in named]
    graph.initializers.clear()
    model = program.model_proto
    rest = model.graph.SerializeToString()
    model.ClearField("graph")
    headers = [_header(name, tensor) for name, tensor in named]
    sizes = [
        len(header) + len(RAW_DATA) + len(_varint(tensor.nbytes)) + tensor.nbytes
        for header, tensor in zip(headers, tensors, strict=True)
    ]
    total = len(rest) + sum(len(INITIALIZER) + len(_varint(size)) + size for size in sizes)
    with path.open("wb") as file:
        file.write(model.SerializeToString() + GRAPH + _varint(total) + rest)
        _write_tensors(file, zip(headers, sizes, tensors, strict=True))


def _write_tensors(file: IO[bytes], tensors: Iterable[tuple[bytes, int, Any]]) -> None:
    for header, size, tensor in tensors:
        file.write(INITIALIZER + _varint(size) + header + RAW_DATA + _varint(tensor.nbytes))
        file.write(tensor.tobytes())  # little-endian, as ONNX has it


def _header(name: str, tensor: Any) -> bytes:
    sides = [int(side) for side in tensor.shape]
    described = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=sides)
    return bytes(described.SerializeToString())


def _varint(value: int) -> bytes:
    """A protobuf base-128 number: seven bits a byte, the lowest first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


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
        write_graph_of_pixels(network.network, network.input_spec, path)
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
