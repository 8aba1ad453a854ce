"""Networks that come as a finished graph: a TorchScript archive or an ONNX file."""

import ast
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
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

FinalOperation = Literal[
    "softmax", "log_softmax", "sigmoid", "log_sigmoid", "hard_sigmoid", "argmax", "topk"
]
KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets that need no library of the user's: ONNX itself and onnxruntime's own."""
FILE_ACCESS = re.compile(rb"\b((?:torch|ops\.aten)\.(?:save|from_file))\(")
MAX_CODE_BYTES = 64 << 20
"""The code of ResNet-152 takes 0.3 MB."""
NUMPY_TYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}
"""Of images that a graph may take."""
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
            # Deprecated (2.11 by DeprecationWarning, 2.14 by FutureWarning); an existing file has
            # no other reader.
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


def _read_onnx(path: Path) -> tuple[onnx.ModelProto, dict[str, Path]]:
    """Read an ONNX file without running it; only standard operators and onnxruntime's.

    Returns:
        The graph, and the file and those of its weights beside it, by name. Such weights are not
        loaded.

    Raises:
        ImportRefused: Not valid ONNX, or with weights that do not lie beside it.
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
    except Exception as error:  # ValidationError, InferenceError and plain RuntimeErrors from C++
        raise ImportRefused(
            f"{path}: not valid ONNX ({one_line(error)}); export it again"
        ) from error
    _refuse_unsupported_operators(model, path)
    return model, files


def _image_input(model: onnx.ModelProto, path: Path) -> tuple[str, str, tuple[int | None, ...]]:
    """Return name, dtype and four sizes of the one input; a size is None where it is open.

    Raises:
        ImportRefused: Not one image input of four dimensions and one output of two.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
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
    if len(image) != 4 or image_type not in NUMPY_TYPES:
        raise ImportRefused(
            f"{path}: input {inputs[0].name!r} is {image_type} {image}, expected four dimensions "
            f"of {', '.join(sorted(NUMPY_TYPES))}"
        )
    if len(scores) != 2 or not scores_type.startswith("float"):
        raise ImportRefused(
            f"{path}: output {outputs[0].name!r} is {scores_type} {scores}, expected floats of "
            "shape (batch, classes)"
        )
    return inputs[0].name, image_type, image


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


class OnnxNetwork(nn.Module):
    """Pixels (n, C, H, W) in, logits (n, classes) out, as a network of torch would.

    A final Softmax or Sigmoid is left out: what serves applies it to the logits before it.

    Attributes:
        model: The graph without a final Softmax or Sigmoid; files beside it are not loaded.
        files: The file and its external data, all in one folder: name → file.
        input_name: Name of the image input.
        input_dtype: "float32", "float16" or "uint8".
        input_shape: Four sizes; None where the graph leaves one open.
        ends_in: Last operation of the file that decides what its output means, or None.
        activation_cut: Whether that was a Softmax or a Sigmoid, which was left out.

    Raises:
        ImportRefused: The file is no ONNX, or no image classifier.
    """

    model: onnx.ModelProto
    files: dict[str, Path]
    input_name: str
    input_dtype: str
    input_shape: tuple[int | None, ...]
    ends_in: FinalOperation | None
    activation_cut: bool

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent
        self.model, self.files = _read_onnx(path)
        self.input_name, self.input_dtype, self.input_shape = _image_input(self.model, path)
        if self.model.functions:  # an exporter may write Softmax as a function of its own
            self.model = onnx.inliner.inline_local_functions(self.model)
        self.ends_in, self.activation_cut = _cut_final_activation(self.model.graph)
        self._session = self._session_of(self.model)

    @property
    def channels_last(self) -> bool:
        """Whether the graph wants (n, H, W, C), as those converted from TensorFlow do."""
        _, first, _, last = self.input_shape
        return first not in (1, 3) and last in (1, 3)

    @property
    def batch_size(self) -> int | None:
        """The batch size the file is fixed to; None where it is free."""
        return self.input_shape[0]

    @cached_property
    def takes_batches(self) -> bool:
        """Whether any batch size works, a fixed one being freed: two images answer as alone."""
        if self.batch_size is None:
            return True
        shape = [size or 224 for size in self.input_shape[1:]]
        scale = 255 if self.input_dtype == "uint8" else 1
        batch = np.random.default_rng(0).uniform(0, scale, (2, *shape))
        batch = batch.astype(NUMPY_TYPES[self.input_dtype])
        try:
            together = self._run(self._session_of(self.with_free_batch()), batch)
            alone = self._run_fixed(batch)
        # onnxruntime's exceptions have no public base.
        except Exception:
            return False
        return together.shape == alone.shape and np.allclose(together, alone, 1e-3, 1e-3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits of normalised float32 pixels (n, C, H, W).

        A graph that takes uint8 normalises by itself: its pixels come in [0, 1].
        """
        if self.input_dtype == "uint8":
            pixels = (pixels * 255).round().clamp(0, 255)
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        dtype = NUMPY_TYPES[self.input_dtype]
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
        (logits,) = session.run(None, {self.input_name: batch})
        return np.asarray(logits, dtype=np.float32)

    def with_free_batch(self) -> onnx.ModelProto:
        """Return a copy of `model` whose batch size is free, as far as that can be done."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if self.batch_size is not None:
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
FORMS: tuple[tuple[FinalOperation, str], ...] = (
    ("softmax", "Softmax(x)"),
    ("softmax", "Div(Exp(Sub(x, ReduceMax(x))), ReduceSum(Exp(Sub(x, ReduceMax(x)))))"),
    ("softmax", "Div(Exp(x), ReduceSum(Exp(x)))"),
    ("softmax", "Mul(Exp(x), Reciprocal(ReduceSum(Exp(x))))"),
    ("softmax", "Exp(LogSoftmax(x))"),
    ("log_softmax", "LogSoftmax(x)"),
    ("log_softmax", "Log(Softmax(x))"),
    ("log_softmax", "Log(Div(Exp(x), ReduceSum(Exp(x))))"),
    ("log_softmax", "Sub(x, ReduceLogSumExp(x))"),
    ("log_softmax", "Sub(x, Log(ReduceSum(Exp(x))))"),
    ("log_softmax", "Sub(Sub(x, ReduceMax(x)), Log(ReduceSum(Exp(Sub(x, ReduceMax(x))))))"),
    ("sigmoid", "Sigmoid(x)"),
    ("sigmoid", "Div(1, Add(1, Exp(Neg(x))))"),
    ("sigmoid", "Reciprocal(Add(1, Exp(Neg(x))))"),
    ("hard_sigmoid", "HardSigmoid(x)"),
    ("hard_sigmoid", "Div(Clip(Add(x, 3), 0, 6), 6)"),
    ("hard_sigmoid", "Mul(Clip(Add(x, 3), 0, 6), constant)"),
    ("hard_sigmoid", "Clip(Add(Mul(x, constant), constant), 0, 1)"),
    ("log_sigmoid", "Log(Sigmoid(x))"),
    ("log_sigmoid", "Neg(Softplus(Neg(x)))"),
    ("argmax", "ArgMax(x)"),
    ("topk", "TopK(x)"),
)
"""What a graph may end in, in the forms that exporters write; x is what is before it."""


def _cut_final_activation(graph: onnx.GraphProto) -> tuple[FinalOperation | None, bool]:
    """Leave out a Softmax over the classes or a Sigmoid at the end of a graph.

    Returns:
        The operation that decides what the output means, where it is a known one, and whether
        it was left out.
    """
    producers = {name: node for node in graph.node for name in node.output}
    constants = _constants(graph)
    last = _origin(graph.output[0].name, producers)
    for operation, form in FORMS:
        pattern = ast.parse(form, mode="eval").body
        found = _match(pattern, last, producers, constants)
        if found is None:
            continue
        node = producers[last]
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        cut = operation == "sigmoid" or (operation == "softmax" and axis in (1, -1))
        if cut:
            node.op_type = "Identity"
            del node.input[:], node.attribute[:]
            node.input.append(found["x"])
        return operation, cut
    return None, False


def _origin(value: str, producers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the value that nodes which only pass it on have made `value` of."""
    while value in producers and producers[value].op_type in PASSING:
        value = producers[value].input[0]
    return value


def _match(
    pattern: ast.expr,
    value: str,
    producers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> dict[str, str] | None:
    """Return what the names in a pattern of `FORMS` stand for where it made `value`, else None."""
    value = _origin(value, producers)
    if isinstance(pattern, ast.Constant):
        number = _array(constants[value]) if value in constants else np.array(())
        return {} if number.size and (number == pattern.value).all() else None
    if isinstance(pattern, ast.Name):
        if pattern.id == "constant":
            return {} if value in constants else None
        return {pattern.id: value}
    node = producers.get(value)
    if not isinstance(pattern, ast.Call) or node is None or node.op_type != pattern.func.id:  # type: ignore[attr-defined]
        return None
    orders = [list(node.input)]
    if node.op_type in ("Add", "Mul"):
        orders.append(orders[0][::-1])
    for inputs in orders:
        # Clip and others have had their limits as attributes, and may have inputs beyond these.
        parts = [
            _match(part, name, producers, constants)
            for part, name in zip(pattern.args, inputs, strict=False)
        ]
        names = [part["x"] for part in parts if part]
        if None not in parts and len(set(names)) <= 1:
            return {"x": names[0]} if names else {}
    return None


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors that a graph holds, as initializers or Constant nodes, by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


PREFIX = "pixels_to_logits."
"""Of the names that are added; a graph that has such names was made here."""
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
    if network.takes_batches:
        model = network.with_free_batch()
    else:
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
    model.ir_version = max(model.ir_version, OLDEST_IR)
    _save(model, network, path)
    onnx.checker.check_model(str(path))


def _save(model: onnx.ModelProto, network: OnnxNetwork, path: Path) -> None:
    if len(network.files) > 1:
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
    network: OnnxNetwork, input_spec: InputSpec
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes from the pixels to the original input, and their constants.

    The arithmetic is that of `PixelsToLogits`.
    """
    steps: list[tuple[str, npt.NDArray[np.float32] | None, dict[str, Any]]] = []
    if not network.channels_last:
        steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
    if network.input_dtype == "uint8":
        _refuse_second_normalisation(input_spec)
    elif input_spec.mean is not None and input_spec.std is not None:
        shape = (-1,) if network.channels_last else (1, -1, 1, 1)
        steps.append(("Cast", None, {"to": TensorProto.FLOAT}))
        steps.append(("Div", np.array(255, np.float32), {}))
        steps.append(("Sub", np.array(input_spec.mean, np.float32).reshape(shape), {}))
        steps.append(("Div", np.array(input_spec.std, np.float32).reshape(shape), {}))
    if network.input_dtype == "float16":
        steps.append(("Cast", None, {"to": TensorProto.FLOAT16}))
    steps = steps or [("Identity", None, {})]
    nodes, constants, before = [], [], f"{PREFIX}batch"
    for number, (kind, constant, attributes) in enumerate(steps):
        inputs = [before]
        if constant is not None:
            inputs.append(f"{PREFIX}constant{number}")
            constants.append(numpy_helper.from_array(constant, inputs[1]))
        before = network.input_name if number == len(steps) - 1 else f"{PREFIX}{number}"
        name = f"{PREFIX}{kind}{number}"
        nodes.append(helper.make_node(kind, inputs, [before], name, **attributes))
    return nodes, constants


def _refuse_second_normalisation(input_spec: InputSpec) -> None:
    given = (*(input_spec.mean or ()), *(input_spec.std or ()))
    channels = input_spec.shape[2]
    if input_spec.dtype != "uint8" or given != (0.0,) * channels + (1.0,) * channels:
        raise ImportRefused(
            f"the ONNX file takes uint8 pixels and normalises by itself, the preprocessing has "
            f"mean {input_spec.mean} and std {input_spec.std}; leave both out of it"
        )


def _free_batch_dimension(model: onnx.ModelProto, fixed: int) -> None:
    """Make the first size of input and output free.

    Shapes that Reshape nodes spell out with the batch size in front follow their input. A batch
    size may hide in other places, so `takes_batches` runs the result.
    """
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    starts_fixed = {value.name for value in values if _shape(value)[0][:1] == (fixed,)}
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in starts_fixed:
            continue
        shape = _array(constants[node.input[1]]) if node.input[1] in constants else np.array(())
        if shape[:1] == fixed:
            name = f"{PREFIX}{node.output[0]}.shape"
            follows = np.array([0, *shape[1:]], np.int64)  # 0: as in the input
            graph.initializer.append(numpy_helper.from_array(follows, name))
            node.input[1] = name
    del graph.value_info[:]
    weights = {tensor.name for tensor in graph.initializer}
    for value in (*graph.input, *graph.output):
        if len(value.type.tensor_type.shape.dim) and value.name not in weights:
            value.type.tensor_type.shape.dim[0].dim_param = "n"


def _array(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """Return a constant as an array; empty where it is large and lies in a file beside."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return np.array(())
    return numpy_helper.to_array(tensor)
