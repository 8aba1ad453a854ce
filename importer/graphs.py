"""Networks that come as a finished graph: a TorchScript archive or an ONNX file."""

import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from image_classifier.artifact.manifest import InputSpec
from importer.errors import ImportRefused
from importer.failures import one_line
from importer.weights import is_torchscript

FinalOperation = Literal["softmax", "log_softmax", "sigmoid", "hard_sigmoid", "argmax", "topk"]
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that need no library of the user's: ONNX itself and onnxruntime's own."""
FILE_ACCESS = re.compile(rb"\b((?:torch|ops\.aten)\.(?:save|from_file))\(")
MAX_CODE_BYTES = 64 << 20
"""The code of ResNet-152 takes 0.3 MB."""
IMAGE_TYPES = frozenset({"float32", "float16", "uint8"})
EXTERNAL_BYTES = 1 << 20
"""Tensors of this size or more are written beside an ONNX file: it takes 2 GiB at most, and they
are written one by one. Exporting ViT-B/16 (346 MB) then peaks at 1.18 GB, as much as before the
file is written; in one file it peaks at 2.20 GB (torch 2.14, onnx-ir 1.1)."""


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Load a TorchScript archive to the CPU, in evaluation mode.

    A TorchScript archive is a program, but one for TorchScript's interpreter: it is not
    Python, and its constants are read by a reader that knows tensors and plain values only.
    Its two ways to reach files, `torch.save` and `torch.from_file`, are refused by name. It
    can still compute for ever and use memory without limit, and loading runs code of its own,
    so take archives from people you trust.

    Raises:
        ImportRefused: Not a complete TorchScript archive, or one of reduced precision.
    """
    if not path.is_file() or not is_torchscript(path):
        raise ImportRefused(f"{path}: not a TorchScript archive; expected a file of torch.jit.save")
    _refuse_file_access(path)
    try:
        with warnings.catch_warnings():
            # Deprecated in torch 2.14; an existing file has no other reader.
            warnings.filterwarnings("ignore", message="`torch.jit.load`", category=FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ImportRefused(f"{path}: damaged TorchScript archive ({one_line(error)})") from error
    refuse_other_precision(module, f"{path}: ")
    for parameter in module.parameters():  # a ScriptModule has no requires_grad_
        parameter.requires_grad = False
    loaded: torch.jit.ScriptModule = module.eval()
    return loaded


def refuse_other_precision(network: nn.Module, where: str) -> None:
    """Raise where parameters are not float32: the reference is computed in float32.

    Raises:
        ImportRefused: With the dtype and the way out.
    """
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


@dataclass(frozen=True, kw_only=True)
class OnnxClassifier:
    """An ONNX file that was checked: one image in, one row of scores out.

    Attributes:
        model: The graph; weights in files beside it are not loaded.
        input_name: Name of the image input.
        input_dtype: "float32", "float16" or "uint8".
        input_shape: Four sizes; None where the graph leaves one open.
        output_name: Name of the output of scores.
        output_shape: Two sizes: batch and classes; None where the graph leaves one open.
        files: The file and its external data, all in one folder: name → file.
    """

    model: onnx.ModelProto
    input_name: str
    input_dtype: str
    input_shape: tuple[int | None, ...]
    output_name: str
    output_shape: tuple[int | None, ...]
    files: dict[str, Path]


def check_onnx(path: Path) -> OnnxClassifier:
    """Check an ONNX classifier without running it.

    One image input of four dimensions, one output of two; only standard operators and
    onnxruntime's. External data must lie beside the file.

    Raises:
        ImportRefused: Not valid ONNX, or not such a classifier.
    """
    if not path.is_file():
        raise ImportRefused(f"{path}: not an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ImportRefused(
            f"--network is not given and {path} is no TorchScript and no ONNX file "
            f"({one_line(error)}); expected --network torchvision:NAME or PATH.py:FUNCTION"
        ) from error
    files = {path.name: path} | _external_files(model, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # ValidationError, InferenceError and plain RuntimeErrors from C++
        raise ImportRefused(
            f"{path}: not valid ONNX ({one_line(error)}); export it again"
        ) from error
    _refuse_unsupported_operators(model, path)
    return _classifier(model, inferred.graph, path, files)


def _classifier(
    model: onnx.ModelProto, graph: onnx.GraphProto, path: Path, files: dict[str, Path]
) -> OnnxClassifier:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    outputs = list(graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ImportRefused(
            f"{path}: inputs {[value.name for value in inputs]} and outputs "
            f"{[value.name for value in outputs]}; expected one image input and one output of "
            "logits: export it with those alone"
        )
    (image, image_type), (scores, scores_type) = _shape(inputs[0]), _shape(outputs[0])
    if len(image) != 4 or image_type not in IMAGE_TYPES:
        raise ImportRefused(
            f"{path}: input {inputs[0].name!r} is {image_type} {image}, expected four dimensions "
            f"of {', '.join(sorted(IMAGE_TYPES))}"
        )
    if len(scores) != 2 or not scores_type.startswith("float"):
        raise ImportRefused(
            f"{path}: output {outputs[0].name!r} is {scores_type} {scores}, expected floats of "
            "shape (batch, classes)"
        )
    return OnnxClassifier(
        model=model,
        input_name=inputs[0].name,
        input_dtype=image_type,
        input_shape=image,
        output_name=outputs[0].name,
        output_shape=scores,
        files=files,
    )


def _shape(value: onnx.ValueInfoProto) -> tuple[tuple[int | None, ...], str]:
    tensor = value.type.tensor_type
    sizes = tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None
        for size in tensor.shape.dim
    )
    dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
    return sizes, {"float": "float32", "double": "float64"}.get(dtype, dtype)


def _external_files(model: onnx.ModelProto, path: Path) -> dict[str, Path]:
    """Return files with the weights beside the graph; each must be a plain file in its folder."""
    files = {}
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                files[entry.value] = path.parent / entry.value
    for name, file in files.items():
        if Path(name).name != name or name in {"", ".", ".."}:
            raise ImportRefused(
                f"{path}: refers to weights in {name!r}; they must lie in the folder of the file"
            )
        if file.is_symlink() or not file.is_file():
            raise ImportRefused(f"{path}: its weights {name!r} are not beside it; copy both files")
    return files


def _tensors(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield every tensor of the graph, of its functions and of graphs inside operators."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                pending += [attribute.g, *attribute.graphs]


def _refuse_unsupported_operators(model: onnx.ModelProto, path: Path) -> None:
    known = KNOWN_DOMAINS | {function.domain for function in model.functions}
    if unknown := sorted({entry.domain for entry in model.opset_import} - known):
        raise ImportRefused(
            f"{path}: uses operators of {', '.join(unknown)}, which need a library of their own; "
            "export it with standard operators"
        )
    opset = max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    if opset < OLDEST_OPSET:
        raise ImportRefused(
            f"{path}: ONNX operator set {opset}, expected {OLDEST_OPSET} or newer; export it "
            "again, or convert it with onnx.version_converter"
        )


OLDEST_OPSET = 7
"""From there on arithmetic broadcasts as the normalisation in front needs it (ONNX 1.2, 2018)."""
NUMPY_TYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}


class OnnxNetwork(nn.Module):
    """Pixels (n, C, H, W) in, logits (n, classes) out, as a network of torch would.

    A final Softmax or Sigmoid is left out: what serves applies it to the logits before it.

    Attributes:
        classifier: The file, as it was checked.
        model: The graph without a final Softmax or Sigmoid; files beside it are not loaded.
        ends_in: Last operation of the file that decides what its output means, or None.
        activation_cut: Whether that was a Softmax or a Sigmoid, which was left out.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.classifier: OnnxClassifier = check_onnx(path)
        self.folder = path.parent
        self.model = self.classifier.model
        if self.model.functions:  # an exporter may write Softmax as a function of its own
            self.model = onnx.inliner.inline_local_functions(self.model)
        self.ends_in, activation = _final_operation(self.model)
        self.activation_cut: bool = activation is not None
        if activation is not None:
            _replace_by_identity(*activation)
        self._session = self._session_of(self.model)

    @property
    def channels_last(self) -> bool:
        """Whether the graph wants (n, H, W, C), as those converted from TensorFlow do."""
        _, first, _, last = self.classifier.input_shape
        return first not in (1, 3) and last in (1, 3)

    @property
    def batch_size(self) -> int | None:
        """The batch size the file is fixed to; None where it is free."""
        return self.classifier.input_shape[0]

    @cached_property
    def takes_batches(self) -> bool:
        """Whether any batch size works, a fixed one being freed: two images answer as alone."""
        if self.batch_size is None:
            return True
        shape = [size or 224 for size in self.classifier.input_shape[1:]]
        dtype = self.classifier.input_dtype
        scale = 255 if dtype == "uint8" else 1
        batch = np.random.default_rng(0).uniform(0, scale, (2, *shape)).astype(NUMPY_TYPES[dtype])
        try:
            together = self._run(self._session_of(self._with_free_batch()), batch)
            alone = [self._run_fixed(batch[at : at + 1]) for at in range(2)]
        # onnxruntime's exceptions have no public base.
        except Exception:
            return False
        return together.shape == (2, alone[0].shape[1]) and np.allclose(
            together, np.concatenate(alone), rtol=1e-3, atol=1e-3
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits of normalised float32 pixels (n, C, H, W).

        A graph that takes uint8 normalises by itself: its pixels come in [0, 1].
        """
        if self.classifier.input_dtype == "uint8":
            pixels = (pixels * 255).round().clamp(0, 255)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        dtype = NUMPY_TYPES[self.classifier.input_dtype]
        batch = np.ascontiguousarray(pixels.numpy(), dtype=dtype)
        try:
            logits = self._run_fixed(batch)
        # onnxruntime's exceptions have no public base; torch's callers expect RuntimeError.
        except Exception as error:
            raise RuntimeError(one_line(error)) from error
        return torch.from_numpy(logits)

    def _run_fixed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run the file itself; of a fixed batch size, one image fills all places."""
        if self.batch_size is None:
            return self._run(self._session, batch)
        rows = [np.repeat(batch[at : at + 1], self.batch_size, axis=0) for at in range(len(batch))]
        return np.concatenate([self._run(self._session, row)[:1] for row in rows])

    def _run(self, session: Any, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        (logits,) = session.run(None, {self.classifier.input_name: batch})
        return np.asarray(logits, dtype=np.float32)

    def _with_free_batch(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        _free_batch_dimension(model, self.batch_size)
        return model

    def _session_of(self, model: onnx.ModelProto) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the reference is computed on one thread
        options.log_severity_level = 3  # its warnings are about the user's graph, not the import
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.folder)
        )
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


PASSING = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})
FINAL_OPERATIONS: dict[str, FinalOperation] = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "ArgMax": "argmax",
    "TopK": "topk",
}


def _final_operation(
    model: onnx.ModelProto,
) -> tuple[FinalOperation | None, tuple[onnx.NodeProto, str] | None]:
    """Return the operation that decides what the output means, where it is a known one.

    Also what to leave out where it is a Softmax over the classes or a Sigmoid: the node, and
    the name of the logits before it.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    node = _producer(graph.output[0].name, producers)
    if node is None:
        return None, None
    operation = FINAL_OPERATIONS.get(node.op_type)
    logits = node.input[0]
    if operation is None:
        operation, logits = _operation_of_parts(node, producers)
    classes_axis = operation == "sigmoid" or _attribute(node, "axis", 1) in (1, -1)
    if operation in ("softmax", "sigmoid") and classes_axis:
        return operation, (node, logits)
    return operation, None


def _producer(
    name: str, producers: dict[str, onnx.NodeProto], passing: frozenset[str] = PASSING
) -> onnx.NodeProto | None:
    """Return the node that computes a value, behind nodes that only pass it on."""
    node = producers.get(name)
    while node is not None and node.op_type in passing:
        node = producers.get(node.input[0])
    return node


def _operation_of_parts(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]
) -> tuple[FinalOperation | None, str]:
    """Recognise softmax, log-softmax, sigmoid and hard sigmoid spelled out in smaller nodes."""
    parts = [_producer(name, producers) for name in node.input]
    kinds = [None if part is None else part.op_type for part in parts]
    first, second = (*parts, None, None)[:2]
    if node.op_type == "Div" and first and second and kinds == ["Exp", "ReduceSum"]:
        same = _producer(second.input[0], producers) == first
        return ("softmax", first.input[0]) if same else (None, "")
    if node.op_type == "Log" and first and kinds == ["Softmax"]:
        return "log_softmax", first.input[0]
    if node.op_type == "Log" and first and _operation_of_parts(first, producers)[0] == "softmax":
        return "log_softmax", first.input[0]
    if node.op_type == "Sub" and kinds[1:] in (["ReduceLogSumExp"], ["Log"]):
        return "log_softmax", node.input[0]
    divisor = {"Reciprocal": first, "Div": second}.get(node.op_type)
    if divisor is not None and divisor.op_type == "Add":
        for name in divisor.input:
            exponential = _producer(name, producers)
            if exponential is not None and exponential.op_type == "Exp":
                negative = _producer(exponential.input[0], producers)
                if negative is not None and negative.op_type == "Neg":
                    return "sigmoid", negative.input[0]
    if node.op_type in ("Div", "Mul") and first is not None and first.op_type == "Clip":
        return "hard_sigmoid", node.input[0]
    return None, ""


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _replace_by_identity(node: onnx.NodeProto, value: str) -> None:
    node.op_type = "Identity"
    del node.input[:], node.attribute[:]
    node.input.append(value)


def torchscript_takes_batches(network: nn.Module, pixels: torch.Tensor) -> bool:
    """Return whether a traced network answers two images as it answers each alone.

    A trace made with one image may have that batch size written into it.

    Args:
        network: A ScriptModule, or a module around one.
        pixels: Two inputs of the network.
    """
    try:
        with torch.inference_mode():
            together = network(pixels[:2])
            alone = torch.cat([network(pixels[at : at + 1]) for at in range(2)])
    except RuntimeError:  # torch's one error for shapes that do not fit
        return False
    return together.shape == alone.shape and bool(torch.allclose(together, alone, 1e-3, 1e-3))


PREFIX = "pixels_to_logits."
"""Of the names that are added; a graph that has such names was made here."""
ELEMENT_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
OLDEST_IR = 4
"""Before it, weights had to be listed as inputs."""


def write_graph_of_pixels(network: OnnxNetwork, input_spec: InputSpec, path: Path) -> None:
    """Write the graph with the normalisation in front: batch (n, H, W, C) in, logits out.

    n is free, or 1 where a batch size of one cannot be freed (`takes_batches`). Large tensors go
    into a file beside it, `path` with ".data" behind it.

    Args:
        network: The original.
        input_spec: Shape, dtype and normalisation of the inputs.
        path: Where to write it.

    Raises:
        ImportRefused: The graph normalises too, or has a larger batch size written into it.
    """
    if not network.takes_batches and network.batch_size != 1:
        raise ImportRefused(
            f"the ONNX file works with batches of {network.batch_size} only; export it with a "
            "dynamic batch axis, or with a batch size of 1"
        )
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    if network.takes_batches:
        _free_batch_dimension(model, network.batch_size)
    graph = model.graph
    image = next(value for value in graph.input if value.name == network.classifier.input_name)
    nodes, constants = _front(network, input_spec, image.name)
    batch_size = "n" if network.takes_batches else 1
    pixels = helper.make_tensor_value_info(
        f"{PREFIX}batch",
        ELEMENT_TYPES[input_spec.dtype],
        (batch_size, *input_spec.shape),
    )
    kept = [*nodes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.append(pixels)
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    model.ir_version = max(model.ir_version, OLDEST_IR)
    _save(model, network, path)
    onnx.checker.check_model(str(path))


def _save(model: onnx.ModelProto, network: OnnxNetwork, path: Path) -> None:
    if len(network.classifier.files) > 1:
        onnx.load_external_data_for_model(model, str(network.folder))
    data_name = f"{path.name}.data"
    (path.parent / data_name).unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=any(
            len(tensor.raw_data) >= EXTERNAL_BYTES for tensor in model.graph.initializer
        ),
        location=data_name,
        size_threshold=EXTERNAL_BYTES,
    )


def _front(
    network: OnnxNetwork, input_spec: InputSpec, image: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes from the pixels to the original input, and their constants.

    The arithmetic is that of `PixelsToLogits`.
    """
    steps: list[tuple[str, dict[str, object], np.ndarray | None]] = []
    if not network.channels_last:
        steps.append(("Transpose", {"perm": [0, 3, 1, 2]}, None))
    takes = network.classifier.input_dtype
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


def _free_batch_dimension(model: onnx.ModelProto, fixed: int | None) -> None:
    """Make the first size of input and output free where the file has it fixed.

    Shapes that Reshape nodes spell out with the batch size in front follow their input. A batch
    size may hide in other places, so `takes_batches` runs the result.
    """
    graph = model.graph
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
    """Yield Reshape nodes whose shape is a constant, with that shape."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] in constants:
            yield node, numpy_helper.to_array(constants[node.input[1]])
