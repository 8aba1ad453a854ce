"""The options of model_import.py: one declaration for the command line, its help and the docs.

Imports neither numpy nor torch: mistakes in the arguments are reported at once.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from image_classifier.artifact.evidence import EngineKind
    from image_classifier.artifact.format import Precision
    from image_classifier.inference.certificate import Gates

TORCHVISION = "torchvision"
SPEC_SUFFIXES = (".yaml", ".yml", ".json")
NETWORK_FORMS = "torchvision:NAME or PATH.py:FUNCTION"
PREPROCESSING_FORMS = "a spec file (.yaml, .json), PATH.py:CLASS or torchvision:NAME/WEIGHTS"
PRECISIONS: "dict[EngineKind, tuple[Precision, ...]]" = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "torch": ("fp32", "bf16", "fp16"),
    "aotinductor": ("fp32", "bf16", "fp16"),
}
"""Kind of engine → the precisions to try."""
ENGINES_OF_DEVICE: "dict[str, tuple[EngineKind, ...]]" = {
    "cpu": ("openvino", "onnxruntime"),
    "cuda": ("torch", "aotinductor"),
}
"""Device → the kinds of engines that "auto" tries. A GPU also runs onnxruntime, with
onnxruntime-gpu, if it is named: the ONNX file would hold the weights a second time."""
FindingName = Literal[
    "batch-dependent",
    "chance-accuracy",
    "channel-order",
    "class-order",
    "constant-logits",
    "mean-std-scale",
    "odd-images",
    "permuted-labels",
    "sigmoid-twice",
    "unstable-reference",
]
"""Findings of importer/plausibility.py and certification.py that `--accept` accepts."""


def nearest(text: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the known word nearest to `text`, or nothing."""
    found = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def no_such(path: Path, kind: str) -> str:
    """Return the message for a missing file or folder, with the nearest existing name."""
    if path.exists():
        return f"{path}: expected a {kind}"
    items = path.parent.iterdir() if path.parent.is_dir() else ()
    known = [item.name for item in items if not item.name.startswith(".")]
    return f"{path}: no such {kind}{nearest(path.name, known)}"


def _existing(path: Path, kind: Literal["file", "folder"] = "file") -> Path:
    if not (path.is_file() if kind == "file" else path.is_dir()):
        raise ValueError(no_such(path, kind))
    return path


def _writable_file(path: Path) -> Path:
    """Refuse a path that cannot be written, before the import instead of at its end."""
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: expected the name of a file in a folder that can be written")
    return path


ExistingFile = Annotated[Path, AfterValidator(_existing)]
ExistingFolder = Annotated[Path, AfterValidator(functools.partial(_existing, kind="folder"))]
Share = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel):
    """Options of a command. A field is an option, and its docstring is the help text.

    The docstring of a class is the title of its group in the help.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class LockOptions(Options):
    """the lock"""

    lock: Annotated[Path, AfterValidator(_writable_file)] | None = None
    """the lock to write (default: model.lock of this program)"""


class PredictOptions(Options):
    """predictions"""

    csv: bool = False
    """result as CSV on standard output"""
    top_k: int = Field(5, ge=1)
    """predictions per image, at most all classes"""


class UnpackOptions(Options):
    """proof"""

    digest: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """sha256 of its manifest, 64 digits of 0-9 and a-f; `show` prints it"""


class ModelOptions(Options):
    """the model"""

    name: str = Field(pattern="^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")  # ModelName of the manifest
    """name in the model store: at most 63 lower-case letters, digits, '.', '_' and '-', a letter or
    digit at both ends"""
    network: str | None = None
    """torchvision:NAME or PATH.py:FUNCTION; leave it out for a finished graph"""
    network_kwargs: Json[dict[str, JsonValue]] = {}
    """arguments of the builder, e.g. '{"num_classes": 10}'"""
    weights: str
    """checkpoint (.safetensors, .pt, .pth, …), name of torchvision's weights, or, without
    --network, a TorchScript or ONNX file"""
    weights_key: str | None = None
    """where in a checkpoint the weights are, e.g. model_ema (default: found)"""
    weights_prefix: str | None = None
    """use only the names with this prefix, and remove it, e.g. net."""
    weights_ignore: tuple[str, ...] = ()
    """pattern of names in a checkpoint to leave out, e.g. 'aux.*'; may be repeated"""
    preprocessing: str | None = None
    """a spec file (.yaml, .json), PATH.py:CLASS or torchvision:NAME/WEIGHTS (default: that of
    torchvision's weights)"""
    labels: str | None = None
    """file with one name per line, a JSON list or JSON id → name, or torchvision:NAME/WEIGHTS
    (default: those of torchvision's weights)"""
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    """what makes probabilities of the outputs (default: as the network shows)"""
    threshold: float | None = Field(None, gt=0, lt=1)
    """sigmoid: probability from which a label is answered"""
    golden: ExistingFolder
    """folder of images the model is verified with"""
    golden_labels: ExistingFile | None = None
    """CSV with the classes of these images"""
    golden_count: int = Field(100, ge=2, le=4096)
    """images kept, evenly over classes"""
    reference: ExistingFile | None = None
    """npz with the logits or probabilities of your notebook; `model_import.py notebook` prints
    the lines that save it"""

    @field_validator("network", "preprocessing", "labels")
    @classmethod
    def _check_place(cls, text: str | None, info: ValidationInfo) -> str | None:
        """Refuse other forms and missing files; torchvision's names are checked later."""
        if text is None:
            return None
        origin, _, name = text.partition(":")
        path, _, definition = text.rpartition(":")
        names = [name] if info.field_name == "network" else name.split("/")
        if origin == TORCHVISION and all(map(str.isidentifier, names)):
            return text
        if info.field_name == "labels" or text.endswith(SPEC_SUFFIXES):
            _existing(Path(text))
        elif path.endswith(".py") and definition.isidentifier():
            _existing(Path(path))
        else:
            forms = NETWORK_FORMS if info.field_name == "network" else PREPROCESSING_FORMS
            raise ValueError(f"expected {forms}, found {text!r}")
        return text

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, text: str, info: ValidationInfo) -> str:
        published = f"{TORCHVISION}:"
        network = info.data.get("network", published)  # absent if it is invalid
        if not (text.isidentifier() and str(network).startswith(published)):
            _existing(Path(text))
        return text

    @field_validator("threshold")
    @classmethod
    def _check_threshold(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("activation", "sigmoid") != "sigmoid":
            raise ValueError("belongs to --activation sigmoid")
        return value


class EngineOptions(Options):
    """the engines and their proof"""

    accept: tuple[FindingName, ...] = ()
    """name of a finding to accept, as printed in the refusal; may be repeated"""
    serving_requirements: ExistingFile | None = None
    """requirements lock of a preprocessing class that needs more than the bento's packages"""
    calibration: ExistingFolder | None = None
    """folder of calibration images for int8 (default: the golden images)"""
    calibration_count: int = Field(64, ge=1, le=4096)
    """calibration images to use"""
    gate_fp32_tolerance: float = Field(0.001, gt=0)
    """fp32: largest difference of a logit, over its size (1 at least, or the largest of all)"""
    gate_agreement: Share = 0.99
    """bf16, fp16, int8: share of images with the reference's top-1"""
    gate_accuracy_loss: Share = 0.005
    """bf16, fp16, int8: share of labelled images that may be lost"""
    device: Literal["cpu", "cuda"] = "cpu"
    """device that will serve"""
    engine: Literal["auto", "openvino", "onnxruntime", "torch", "aotinductor"] = "auto"
    """one kind of engine; auto: all that fit the device"""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """one precision; auto: reduced ones from 100 golden images on"""
    budget_ms: float = Field(50.0, gt=0)
    """latency an answer may take, in milliseconds"""
    measure_seconds: float = Field(0.4, gt=0, le=60)
    """duration of one point of a latency curve"""

    @property
    def gates(self) -> "Gates":
        """The three gates as one value."""
        # Imported here: it needs numpy.
        from image_classifier.inference.certificate import Gates

        return Gates(
            fp32_tolerance=self.gate_fp32_tolerance,
            min_agreement=self.gate_agreement,
            max_accuracy_loss=self.gate_accuracy_loss,
        )

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, value: str, info: ValidationInfo) -> str:
        known = ("auto", *ENGINES_OF_DEVICE["cuda"], "onnxruntime")
        if info.data.get("device") == "cuda" and value not in known:
            raise ValueError(f"--device cuda does not run {value}; expected {' or '.join(known)}")
        return value

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, value: str, info: ValidationInfo) -> str:
        device, engine = info.data.get("device", "cpu"), info.data.get("engine", "auto")
        kinds = ENGINES_OF_DEVICE[device] if engine == "auto" else (engine,)
        known = sorted({"auto", *(precision for kind in kinds for precision in PRECISIONS[kind])})
        if value not in known:
            raise ValueError(
                f"--device {device} --engine {engine} has no {value}; expected one of "
                + ", ".join(known)
            )
        return value


class ImportOptions(LockOptions, EngineOptions, ModelOptions):
    """Options of an import."""


def option_of(field: str) -> str:
    """Return the option of a field, e.g. "--golden-count" of "golden_count"."""
    return f"--{field.replace('_', '-')}"


def description_of(field: FieldInfo) -> str:
    """Return the docstring of an option on one line."""
    return " ".join(str(field.description).split())


def mistakes_of(error: ValidationError, model: type[Options]) -> list[str]:
    """Return one line per mistake, with the option."""
    lines = []
    for item in error.errors(include_url=False):
        name, found = str(item["loc"][0]), item["input"]
        description = description_of(model.model_fields[name])
        match item["type"]:
            case "missing":
                message = f"is required: {description}"
            case "value_error":
                message = str(item["ctx"]["error"])
            case "string_pattern_mismatch":
                message = f"found {found!r}, expected: {description}"
            case _:
                rule = item["msg"].partition(", unable to parse")[0]
                message = rule.replace("Input should", "must") + f", found {found!r}"
                message += nearest(str(found), re.findall(r"'([^']*)'", rule))
        lines.append(f"{option_of(name)}: {message}")
    return lines


def split_published(text: str) -> tuple[str, str]:
    """Return network and weights of `torchvision:NAME/WEIGHTS`; the weights default to DEFAULT."""
    network, _, weights = text.removeprefix(f"{TORCHVISION}:").partition("/")
    return network, weights or "DEFAULT"
