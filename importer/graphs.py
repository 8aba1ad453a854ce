"""Networks imported as a finished graph: a TorchScript archive or an ONNX file."""

import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import nn

from importer.endings import graph_ending, producers_of
from importer.errors import ImportRefused
from importer.failures import one_line
from preprocessing import InputSpec

FILE_ACCESS = re.compile(rb"\b((?:torch|ops\.aten)\.(?:save|from_file))\(")
MAX_CODE_BYTES = 64 << 20
"""The code of ResNet-152 takes 0.3 MB."""
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
"""onnxruntime's names of the types that logits may have."""
MIN_BYTE_CONSTANT = 50.0
"""Constants of this size or more normalise pixels of 0 to 255, whose means are about 100 and
deviations 58; those of pixels in [0, 1] are below 1."""
ACTIVATIONS: dict[str, Literal["softmax", "sigmoid"]] = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
}
"""Last operators that are left to the service."""
REARRANGING = (
    *("Cast", "Concat", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that leave pixels in their range."""
MIN_STD = 0.02
"""Smallest std of a preprocessing that normalises; 1/255 leaves pixels at 0 to 255."""
EXTERNAL_BYTES = 1 << 16
"""Tensors of this size or more are written beside an ONNX file, one by one: the file itself is
limited to 2 GiB and built in memory, which takes another 1 GB for ViT-B/16. OpenVINO maps the file
beside it, and keeps the others in memory."""
PREFIX = "pixels_to_logits."
"""Of the names that `write_graph_of_pixels` adds to a graph."""
MIN_IR_VERSION = 4
"""Before it, weights had to be listed as inputs."""


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Load a TorchScript archive to the CPU, in evaluation mode.

    An archive is a program for TorchScript's interpreter, which runs no Python. Its two ways to
    access files, `torch.save` and `torch.from_file`, are refused. It can still run forever and
    exhaust memory, and loading runs code of its own, so archives must come from trusted people.

    Raises:
        ImportRefused: The archive is damaged, accesses files, or is not float32.
    """
    _refuse_file_access(path)
    try:
        with warnings.catch_warnings():
            # Deprecated (2.11 by DeprecationWarning, 2.14 by FutureWarning) without a replacement
            # that reads existing files.
            warnings.filterwarnings("ignore", message="`torch.jit.load`")
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ImportRefused(f"{path}: damaged TorchScript archive ({one_line(error)})") from error
    refuse_other_precision(module, f"{path}: ")
    for parameter in module.parameters():  # a ScriptModule has no requires_grad_
        parameter.requires_grad = False
    loaded: torch.jit.ScriptModule = module.eval()
    return loaded


def refuse_other_precision(network: nn.Module, where: str) -> None:
    """Refuse parameters other than float32, in which the reference is computed."""
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ImportRefused(
                f"{where}parameter {name} is {str(parameter.dtype).removeprefix('torch.')}, "
                "expected float32; call .float() on the network before it is returned or saved"
            )


def _refuse_file_access(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".py"):
                continue
            if member.file_size > MAX_CODE_BYTES:
                raise ImportRefused(f"{path}: {member.filename} is too long to be checked")
            if found := FILE_ACCESS.search(archive.read(member)):
                raise ImportRefused(
                    f"{path}: {member.filename} calls {found[1].decode()}, which reads or writes "
                    "files; a classifier needs neither: export it again without"
                )


class OnnxNetwork(nn.Module):
    """An ONNX graph as a network of torch: pixels (n, C, H, W) in, logits (n, classes) out.

    A final Softmax or Sigmoid is removed: the service applies it to the logits.

    Attributes:
        model: The graph without it; external data are not loaded.
        files: The file and its external data: name relative to the folder of the file → file.
        input_name: Name of the image input.
        takes_batches: Whether the batch size is dynamic; else it is 1.
        activation: The activation that was removed.
        ending: Last operations of the file.

    Raises:
        ImportRefused: The file is not valid ONNX, or no image classifier.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent
        self.model, self.files = _read_onnx(path)
        if self.model.functions:  # an exporter may write Softmax as a function
            self.model = onnx.inliner.inline_local_functions(self.model)
        self.ending = graph_ending(self.model)
        self.ending.refuse(str(path))
        self.activation = _cut_final_activation(self.model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the reference is computed on one thread
        options.log_severity_level = 4  # its exceptions say enough
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.folder)
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(
                self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime's exceptions have no public base.
        except Exception as error:
            raise ImportRefused(
                f"{path}: onnxruntime cannot run it ({one_line(error)}); export it again, with "
                "standard operators"
            ) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ImportRefused(
                f"{path}: inputs {[value.name for value in inputs]} and outputs "
                f"{[value.name for value in outputs]}; expected one image input and one output of "
                "logits: export it with those alone"
            )
        for kind, value, types, sizes in (
            ("input", inputs[0], FLOATS[:1], "(batch, channels, height, width)"),
            ("output", outputs[0], FLOATS, "(batch, classes)"),
        ):
            if value.type not in types or len(value.shape) != sizes.count(",") + 1:
                raise ImportRefused(
                    f"{path}: {kind} {value.name!r} is {value.type} of shape {value.shape}, "
                    f"expected {' or '.join(types)} of shape {sizes}; export it again with that"
                )
        if inputs[0].shape[3] in (1, 3):
            raise ImportRefused(
                f"{path}: takes {inputs[0].shape}, channels last; export it with channels first"
            )
        self.input_name, batch_size = inputs[0].name, inputs[0].shape[0]
        self.takes_batches = batch_size != 1
        if isinstance(batch_size, int) and batch_size > 1:
            raise ImportRefused(
                f"{path}: works with batches of {batch_size} only; export it with a dynamic batch "
                "axis, or with a batch size of 1"
            )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits of normalised float32 pixels (n, C, H, W)."""
        batch = np.ascontiguousarray(pixels.numpy(), dtype=np.float32)
        try:
            (logits,) = self._session.run(None, {self.input_name: batch})
        # onnxruntime's exceptions have no public base; torch's callers expect RuntimeError.
        except Exception as error:
            raise RuntimeError(one_line(error)) from error
        return torch.from_numpy(np.asarray(logits, dtype=np.float32))


def _read_onnx(path: Path) -> tuple[onnx.ModelProto, dict[str, Path]]:
    """Read an ONNX file without running it.

    Returns:
        The graph without its external data, and the files: the ONNX file and its external data,
        by name relative to its folder.

    Raises:
        ImportRefused: The file is not valid ONNX, or its external data are not in its folder.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ImportRefused(
            f"{path}: no TorchScript and no ONNX file, which alone can be imported without "
            "--network; a checkpoint needs --network torchvision:NAME or PATH.py:FUNCTION"
        ) from error
    try:
        # Also refuses external data outside the folder and symbolic links.
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # ValidationError, InferenceError and plain RuntimeErrors from C++
        raise ImportRefused(
            f"{path}: not valid ONNX ({one_line(error)}); export it again, and copy all its files"
        ) from error
    tensors = filter(uses_external_data, _tensors(model))
    names = {ExternalDataInfo(tensor).location for tensor in tensors}
    return model, {path.name: path} | {name: path.parent / name for name in sorted(names)}


def _tensors(message: Any) -> Iterator[TensorProto]:
    """Yield every tensor of a model, including those of functions and subgraphs."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if isinstance(value, Sequence) else [value]:
                if isinstance(item, TensorProto):
                    yield item
                else:
                    yield from _tensors(item)


def _cut_final_activation(model: onnx.ModelProto) -> Literal["softmax", "sigmoid"] | None:
    """Remove a Softmax over the classes or a Sigmoid at the end of a graph, and return which.

    One whose result is reshaped stays, and one composed of smaller operators; the outputs show it.
    """
    producers = producers_of(model)
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = producers.get(node.input[0])
    if node is None or node.op_type not in ACTIVATIONS:
        return None
    if any(item.i not in (1, -1) for item in node.attribute):  # the axis; it must be the classes
        return None
    activation = ACTIVATIONS[node.op_type]
    node.op_type = "Identity"
    del node.attribute[:]
    return activation


def refuse_other_range(network: OnnxNetwork, input_spec: InputSpec) -> None:
    """Refuse a second normalisation of pixels that a graph normalises itself."""
    if not input_spec.std or min(input_spec.std) < MIN_STD:
        return
    graph = network.model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    name = network.input_name
    while users := [node for node in graph.node if name in node.input]:
        node, name = users[0], users[0].output[0]
        if node.op_type in REARRANGING:
            continue
        operands = [
            numpy_helper.to_array(constants[key], str(network.folder))
            for key in node.input
            if key in constants
        ]
        size = float(np.abs(operands[0]).max()) if operands and operands[0].size <= 3 else 0.0
        mean = np.asarray(input_spec.mean)
        if node.op_type == "Sub" and size and np.allclose(operands[0].ravel(), mean, atol=1e-3):
            raise ImportRefused(
                "the ONNX file begins with Sub by the mean of the preprocessing, so it normalises "
                "pixels itself; give the preprocessing mean 0 and std 1 for each channel"
            )
        if (node.op_type in ("Add", "Div", "Sub") and size >= MIN_BYTE_CONSTANT) or (
            node.op_type == "Mul" and 0 < size <= 1 / MIN_BYTE_CONSTANT
        ):
            raise ImportRefused(
                f"the ONNX file begins with {node.op_type} by {size:.4g}, so it takes pixels of 0 "
                "to 255, but the preprocessing normalises them; give the preprocessing mean 0 and "
                "std 1/255 (0.00392156862745098) for each channel"
            )
        return


def write_graph_of_pixels(network: OnnxNetwork, input_spec: InputSpec, path: Path) -> None:
    """Write the graph with the normalisation in front: batch (n, H, W, C) in, logits out.

    n is dynamic, or 1 if the network is fixed to it. Large tensors go to `path` + ".data".
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    nodes, constants = _front(network, input_spec)
    nodes.extend(graph.node)
    batch_size = "n" if network.takes_batches else 1
    dtype = TensorProto.UINT8 if input_spec.dtype == "uint8" else TensorProto.FLOAT
    pixels = helper.make_tensor_value_info(f"{PREFIX}batch", dtype, (batch_size, *input_spec.shape))
    del graph.input[:], graph.node[:]
    graph.input.append(pixels)
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    if len(network.files) > 1:
        onnx.load_external_data_for_model(model, str(network.folder))
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=EXTERNAL_BYTES,
    )
    onnx.checker.check_model(str(path))


def _front(
    network: OnnxNetwork, input_spec: InputSpec
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes from the pixels to the original input, and their constants.

    The arithmetic is that of `PixelsToLogits`.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(operator: str, constant: npt.ArrayLike | None = None, **attributes: Any) -> None:
        number = len(nodes)
        inputs = [nodes[-1].output[0] if nodes else f"{PREFIX}batch"]
        if constant is not None:
            inputs.append(f"{PREFIX}constant{number}")
            constants.append(numpy_helper.from_array(np.asarray(constant, np.float32), inputs[1]))
        name = f"{PREFIX}{operator}{number}"
        nodes.append(helper.make_node(operator, inputs, [f"{PREFIX}{number}"], name, **attributes))

    add("Transpose", perm=[0, 3, 1, 2])
    if input_spec.mean is not None and input_spec.std is not None:
        add("Cast", to=TensorProto.FLOAT)
        add("Div", 255)
        add("Sub", np.reshape(input_spec.mean, (1, -1, 1, 1)))
        add("Div", np.reshape(input_spec.std, (1, -1, 1, 1)))
    nodes[-1].output[0] = network.input_name
    return nodes, constants
