"""Networks that come as a finished graph: a TorchScript archive or an ONNX file."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import InputSpec
from importer.errors import ImportRefused
from importer.weights import is_onnx, is_torchscript

if TYPE_CHECKING:
    import torch


KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that need no library of the user's: ONNX itself and onnxruntime's own."""
FILE_ACCESS = re.compile(rb"\b((?:torch|ops\.aten)\.(?:save|from_file))\(")
MAX_CODE_BYTES = 64 << 20
"""The code of ResNet-152 takes 0.3 MB."""
IMAGE_TYPES = frozenset({"float32", "float16", "uint8"})


@dataclass(frozen=True, kw_only=True)
class OnnxSignature:
    """Input and output of an ONNX classifier.

    Attributes:
        input_name: Name of the image input.
        input_dtype: "float32", "float16" or "uint8".
        input_shape: Four sizes; None where the graph leaves one open.
        output_name: Name of the output of logits.
        output_shape: Two sizes: batch and classes; None where the graph leaves one open.
        opset: Version of the standard operator set.
        files: The file and its external data, all in one folder: name → file.
    """

    input_name: str
    input_dtype: str
    input_shape: tuple[int | None, ...]
    output_name: str
    output_shape: tuple[int | None, ...]
    opset: int
    files: dict[str, Path]


def load_torchscript(path: Path) -> "torch.jit.ScriptModule":
    """Load a TorchScript archive to the CPU, in evaluation mode.

    A TorchScript archive is a program, but one for TorchScript's interpreter: it is not
    Python, and its constants are read by a reader that knows tensors and plain values only.
    Its two ways to reach files, `torch.save` and `torch.from_file`, are refused by name. It
    can still compute for ever and use memory without limit, and loading runs code of its own,
    so take archives from people you trust.

    Raises:
        ArtifactError: Not a complete TorchScript archive.
    """
    import warnings

    import torch

    if not path.is_file() or not is_torchscript(path):
        raise ArtifactError(f"{path}: not a TorchScript archive; expected a file of torch.jit.save")
    _refuse_file_access(path)
    try:
        with warnings.catch_warnings():
            # Deprecated in torch 2.14; an existing file has no other reader.
            warnings.filterwarnings("ignore", message="`torch.jit.load`", category=FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ArtifactError(f"{path}: damaged TorchScript archive ({reason})") from error
    loaded: torch.jit.ScriptModule = module.eval()
    return loaded


def _refuse_file_access(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".py"):
                continue
            if member.file_size > MAX_CODE_BYTES:
                raise ArtifactError(f"{path}: {member.filename} is too long to be checked")
            if found := FILE_ACCESS.search(archive.read(member)):
                raise ArtifactError(
                    f"{path}: {member.filename} calls {found[1].decode()}, which reads or writes "
                    "files; a classifier needs neither: export it again without"
                )


def check_onnx(path: Path) -> OnnxSignature:
    """Check an ONNX classifier without running it.

    One image input of four dimensions, one output of two; only standard operators and
    onnxruntime's. External data must lie beside the file.

    Raises:
        ArtifactError: Not valid ONNX, or not such a classifier.
    """
    import onnx

    if not path.is_file() or not is_onnx(path):
        raise ArtifactError(f"{path}: not an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        files = {path.name: path} | _external_files(model, path)
        onnx.checker.check_model(str(path), full_check=True)
    # DecodeError of protobuf, ValidationError, InferenceError and plain RuntimeErrors from C++.
    except ArtifactError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path}: not valid ONNX ({reason}); export it again") from error
    _refuse_unknown_operators(model, path)
    return _signature(onnx.shape_inference.infer_shapes(model), path, files)


def _signature(model: Any, path: Path, files: dict[str, Path]) -> OnnxSignature:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: inputs {[value.name for value in inputs]} and outputs "
            f"{[value.name for value in outputs]}; expected one image input and one output of "
            "logits: export it with those alone"
        )
    (image, image_type), (logits, logits_type) = _shape(inputs[0]), _shape(outputs[0])
    if len(image) != 4 or image_type not in IMAGE_TYPES:
        raise ArtifactError(
            f"{path}: input {inputs[0].name!r} is {image_type} {image}, expected four dimensions "
            f"of {', '.join(sorted(IMAGE_TYPES))}"
        )
    if len(logits) != 2 or not logits_type.startswith("float"):
        raise ArtifactError(
            f"{path}: output {outputs[0].name!r} is {logits_type} {logits}, expected floats of "
            "shape (batch, classes)"
        )
    return OnnxSignature(
        input_name=inputs[0].name,
        input_dtype=image_type,
        input_shape=image,
        output_name=outputs[0].name,
        output_shape=logits,
        opset=max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}),
        files=files,
    )


def _shape(value: Any) -> tuple[tuple[int | None, ...], str]:
    import onnx

    tensor = value.type.tensor_type
    sizes = tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
        for size in tensor.shape.dim
    )
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return sizes, {"float": "float32", "double": "float64"}.get(dtype, dtype)


def _external_files(model: Any, path: Path) -> dict[str, Path]:
    """Files with the weights beside the graph; each must be a plain file in its folder."""
    files = {}
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                files[entry.value] = path.parent / entry.value
    for name, file in files.items():
        if Path(name).name != name or name in {"", ".", ".."}:
            raise ArtifactError(
                f"{path}: refers to weights in {name!r}; they must lie in the folder of the file"
            )
        if file.is_symlink() or not file.is_file():
            raise ArtifactError(f"{path}: its weights {name!r} are not beside it; copy both files")
    return files


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of the graph, of its functions and of graphs inside operators."""
    pending = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                pending += [attribute.g, *attribute.graphs]


def _refuse_unknown_operators(model: Any, path: Path) -> None:
    known = KNOWN_DOMAINS | {function.domain for function in model.functions}
    if unknown := sorted({entry.domain for entry in model.opset_import} - known):
        raise ArtifactError(
            f"{path}: uses operators of {', '.join(unknown)}, which need a library of their own; "
            "export it with standard operators"
        )


OLDEST_OPSET = 7
"""From there on arithmetic broadcasts as the normalisation in front needs it (ONNX 1.2, 2018)."""
NUMPY_TYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}


class OnnxNetwork(nn.Module):
    """Pixels (n, C, H, W) in, logits (n, classes) out, as a network of torch would.

    A final Softmax is left out: what serves answers with the logits before it.

    Attributes:
        model: The graph without final Softmax, weights included.
        signature: Its input and output.
        cut_softmax: Whether there was one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.signature: OnnxSignature = check_onnx(path)
        if self.signature.opset < OLDEST_OPSET:
            raise ImportRefused(
                f"{path}: ONNX operator set {self.signature.opset}, expected {OLDEST_OPSET} or "
                "newer; export it again, or convert it with onnx.version_converter"
            )
        self.model = onnx.load(str(path))
        self.cut_softmax = _cut_final_softmax(self.model.graph)
        # The reference is computed on one thread: see importer.reference.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # its warnings are about the user's graph, not the import
        self._session = onnxruntime.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def channels_last(self) -> bool:
        """Whether the graph wants (n, H, W, C), as those converted from TensorFlow do."""
        _, first, _, last = self.signature.input_shape
        return first not in (1, 3) and last in (1, 3)

    @property
    def batch_size(self) -> int | None:
        """The batch size the graph is fixed to; None where it is free."""
        return self.signature.input_shape[0]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of normalised float32 pixels (n, C, H, W).

        A graph that takes uint8 normalises by itself: its pixels come in [0, 1].
        """
        if self.signature.input_dtype == "uint8":
            pixels = (pixels * 255).round().clamp(0, 255)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        count = len(pixels)
        if self.batch_size is not None:
            pixels = pixels.expand(self.batch_size, *pixels.shape[1:]) if count == 1 else pixels
        batch = np.ascontiguousarray(pixels.numpy(), dtype=NUMPY_TYPES[self.signature.input_dtype])
        try:
            (logits,) = self._session.run(None, {self.signature.input_name: batch})
        # onnxruntime's exceptions have no public base; torch's callers expect RuntimeError.
        except Exception as error:
            raise RuntimeError(" ".join(str(error).split())[:200]) from error
        return torch.from_numpy(np.asarray(logits[:count], dtype=np.float32))


def _cut_final_softmax(graph: onnx.GraphProto) -> bool:
    output = graph.output[0]
    for node in graph.node:
        if output.name in node.output and node.op_type == "Softmax":
            output.name = node.input[0]
            graph.node.remove(node)
            return True
    return False


PREFIX = "pixels_to_logits."
"""Of the names that are added; a graph that has such names was made here."""
ELEMENT_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
OLDEST_IR = 4
"""Before it, weights had to be listed as inputs."""


def write_graph_of_pixels(network: OnnxNetwork, input_spec: InputSpec, path: Path) -> None:
    """Write the graph with the normalisation in front: batch (n, H, W, C) in, logits out.

    Args:
        network: The original.
        input_spec: Shape, dtype and normalisation of the inputs.
        path: Where to write it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    free_batch_dimension(model, network)
    image = next(value for value in graph.input if value.name not in weights)
    nodes, constants = _front(network, input_spec, image.name)
    shape = ("n", *input_spec.shape)
    pixels = helper.make_tensor_value_info(f"{PREFIX}batch", ELEMENT_TYPES[input_spec.dtype], shape)
    kept = [*nodes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.append(pixels)
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    model.ir_version = max(model.ir_version, OLDEST_IR)
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def _front(
    network: OnnxNetwork, input_spec: InputSpec, image: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from the pixels to the original input, in the arithmetic of PixelsToLogits."""
    steps: list[tuple[str, dict[str, object], np.ndarray | None]] = []
    if not network.channels_last:
        steps.append(("Transpose", {"perm": [0, 3, 1, 2]}, None))
    takes = network.signature.input_dtype
    if takes == "uint8":
        _refuse_second_normalisation(input_spec)
    elif input_spec.mean is not None and input_spec.std is not None:
        shape = (-1,) if network.channels_last else (1, -1, 1, 1)
        steps.append(("Cast", {"to": TensorProto.FLOAT}, None))
        steps.append(("Div", {}, np.array(255, np.float32)))
        steps.append(("Sub", {}, np.array(input_spec.mean, np.float32).reshape(shape)))
        steps.append(("Div", {}, np.array(input_spec.std, np.float32).reshape(shape)))
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


def _refuse_second_normalisation(input_spec: InputSpec) -> None:
    given = (*(input_spec.mean or ()), *(input_spec.std or ()))
    channels = input_spec.shape[2]
    if input_spec.dtype != "uint8" or given != (0.0,) * channels + (1.0,) * channels:
        raise ImportRefused(
            f"the ONNX file takes uint8 pixels and normalises by itself, the preprocessing has "
            f"mean {input_spec.mean} and std {input_spec.std}; leave both out of it"
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
