"""Networks that come as a finished graph: a TorchScript archive or an ONNX file."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifact.checkpoints_kinds import is_onnx, is_torchscript
from artifact.errors import ArtifactError

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
