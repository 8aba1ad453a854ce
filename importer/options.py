"""The options of an import: one declaration for the command line, its help and the docs."""

import argparse
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    BeforeValidator,
    DirectoryPath,
    Field,
    FilePath,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from image_classifier.artifact.format import FrozenModel
from image_classifier.artifact.manifest import TORCHVISION, ModelName
from image_classifier.inference.certificate import Gates

SPEC_SUFFIXES = (".yaml", ".yml", ".json")
NETWORK_FORMS = "torchvision:NAME or PATH.py:FUNCTION"
PREPROCESSING_FORMS = "a spec file (.yaml, .json), PATH.py:CLASS or torchvision:NAME/WEIGHTS"


def _parsed_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object: {error}") from error


FindingName = Literal[
    "batch-dependent",
    "chance-accuracy",
    "channel-order",
    "class-order",
    "constant-logits",
    "mean-std-scale",
    "permuted-labels",
    "random-preprocessing",
    "sigmoid-twice",
    "unstable-reference",
]
"""What makes an import implausible and may be accepted; importer/plausibility.py finds it."""


def _split(value: object) -> object:
    """Return the parts of values such as "a,b", each given once or several times."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return texts
    return tuple(part.strip() for text in texts for part in str(text).split(","))


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_parsed_json)]
Count = Annotated[int, Field(le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]


class ImportOptions(FrozenModel):
    """What the person importing a model asked for. A field is an option of the command line."""

    name: Annotated[ModelName, Field(description="name in the model store, lower case")]
    network: Annotated[
        str | None, Field(description=f"{NETWORK_FORMS}; leave it out for a finished graph")
    ] = None
    network_kwargs: Annotated[
        JsonObject, Field(description="arguments of the builder, e.g. '{\"num_classes\": 10}'")
    ] = {}
    weights: Annotated[
        str,
        Field(
            description="checkpoint (.safetensors, .pt, .pth, …), name of torchvision's weights, "
            "or, without --network, a TorchScript or ONNX file"
        ),
    ]
    weights_key: Annotated[
        str | None,
        Field(description="where in a checkpoint the weights are, e.g. model_ema (default: found)"),
    ] = None
    weights_prefix: Annotated[
        str | None,
        Field(description="take the names that start with this and cut it off, e.g. net."),
    ] = None
    weights_ignore: Annotated[
        tuple[str, ...],
        Field(description="pattern of names in a checkpoint to leave out; may be repeated"),
    ] = ()
    preprocessing: Annotated[
        str | None,
        Field(description=f"{PREPROCESSING_FORMS} (default: that of torchvision's weights)"),
    ] = None
    labels: Annotated[
        str | None,
        BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value),
        Field(
            description="file with one name a line, a JSON list or JSON id → name, or "
            "torchvision:NAME/WEIGHTS (default: those of torchvision's weights)"
        ),
    ] = None
    activation: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        Field(
            description="what makes probabilities of the outputs (default: as the network shows)"
        ),
    ] = None
    threshold: Annotated[
        float | None,
        Field(gt=0, lt=1, description="sigmoid: probability from which a label is answered"),
    ] = None
    golden: Annotated[
        DirectoryPath, Field(description="folder of images the model is verified with")
    ]
    golden_labels: Annotated[
        FilePath | None, Field(description="CSV with the classes of these images")
    ] = None
    golden_count: Annotated[Count, Field(ge=2, description="images kept, evenly over classes")] = (
        100
    )
    reference: Annotated[
        FilePath | None, Field(description="logits or probabilities that your notebook computed")
    ] = None
    accept: Annotated[
        tuple[str, ...],
        BeforeValidator(_split),
        Field(description="finding to import in spite of, as a refusal names it; repeatable"),
    ] = ()
    calibration: Annotated[
        DirectoryPath | None,
        Field(description="folder of calibration images for int8 (default: the golden images)"),
    ] = None
    calibration_count: Annotated[Count, Field(ge=1, description="how many of them")] = 64
    gate_fp32_tolerance: Annotated[
        float,
        Field(gt=0, description="fp32: largest difference of a logit, times max(1, |logit|)"),
    ] = 0.001
    gate_agreement: Annotated[
        Share, Field(description="bf16, fp16, int8: share of images with the reference's top-1")
    ] = 0.99
    gate_accuracy_loss: Annotated[
        Share, Field(description="bf16, fp16, int8: share of labelled images that may be lost")
    ] = 0.005
    device: Annotated[Literal["cpu", "cuda"], Field(description="where it will serve")] = "cpu"
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torchscript"],
        Field(description="one kind of engine; auto: all that fit the device"),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"],
        Field(description="one precision; auto: all that the golden images can tell apart"),
    ] = "auto"
    budget_ms: Annotated[
        float, Field(gt=0, description="latency an answer may take, in milliseconds")
    ] = 50.0
    measure_seconds: Annotated[
        float, Field(gt=0, le=60, description="duration of one point of a latency curve")
    ] = 0.4

    @property
    def gates(self) -> Gates:
        """The three gates as one value."""
        return Gates(
            fp32_tolerance=self.gate_fp32_tolerance,
            min_agreement=self.gate_agreement,
            max_accuracy_loss=self.gate_accuracy_loss,
        )

    @field_validator("accept")
    @classmethod
    def _check_accept(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = get_args(FindingName)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"expected one of {', '.join(known)}, found {name!r}{nearest(name, known)}"
                )
        return names

    @field_validator("threshold")
    @classmethod
    def _check_threshold(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("activation") != "sigmoid":
            raise ValueError("belongs to --activation sigmoid")
        return value

    @field_validator("network")
    @classmethod
    def _check_network(cls, text: str | None) -> str | None:
        if text is None or text.startswith(f"{TORCHVISION}:"):
            return text
        file, _, function = text.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise ValueError(f"expected {NETWORK_FORMS}, found {text!r}")
        return _with_file(text, Path(file))

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, text: str, info: ValidationInfo) -> str:
        published = (info.data.get("network") or "").startswith(f"{TORCHVISION}:")
        return text if published and text.isidentifier() else _with_file(text, Path(text))

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, text: str | None) -> str | None:
        published = text is None or text.startswith(f"{TORCHVISION}:")
        return text if published else _with_file(str(text), Path(str(text)))

    @field_validator("preprocessing")
    @classmethod
    def _check_preprocessing(cls, text: str | None) -> str | None:
        if text is None or text.startswith(f"{TORCHVISION}:"):
            return text
        if text.endswith(SPEC_SUFFIXES):
            return _with_file(text, Path(text))
        file, _, name = text.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ValueError(f"expected {PREPROCESSING_FORMS}, found {text!r}")
        return _with_file(text, Path(file))


def _with_file(text: str, path: Path) -> str:
    """Return `text`, which names the file `path`."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file{_close_file(path)}")
    return text


GROUPS = {
    "name": "the model",
    "golden": "the proof",
    "gate_fp32_tolerance": "gates",
    "device": "engines",
}
"""First option of a group → its title in the help."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line each, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit with status 2."""
        self.exit(2, f"{self.prog.split()[0].removesuffix('.py')}: {message}\n")


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `ImportOptions`.

    The parser takes every value as text: `ImportOptions` checks them all together.
    """
    group: Any = parser
    for name, field in ImportOptions.model_fields.items():
        if name in GROUPS:
            group = parser.add_argument_group(GROUPS[name])
        help_text = (field.description or "").replace("%", "%%")
        if field.default not in (None, {}, ()) and not field.is_required():
            help_text += f" (default {field.default})"
        choices = _choices(field)
        group.add_argument(
            option_of(name),
            action="append" if get_origin(field.annotation) is tuple else "store",
            default=argparse.SUPPRESS,
            metavar="|".join(choices) or name.rpartition("_")[2].upper(),
            help=f"{help_text} (required)" if field.is_required() else help_text,
        )


def read_import_options(
    given: Mapping[str, object], parser: argparse.ArgumentParser
) -> ImportOptions:
    """Check the values of a command line; exit with status 2 and a line for each mistake."""
    try:
        return ImportOptions.model_validate(
            {name: given[name] for name in ImportOptions.model_fields if name in given}
        )
    except ValidationError as error:
        mistakes = [_mistake(item) for item in error.errors(include_url=False)]
        prefix = f"\n{parser.prog.removesuffix('.py')}: "
        parser.error(prefix.join(mistakes))


def parse_strictly(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; an unknown option is refused with the nearest known one."""
    given, unknown = parser.parse_known_args(arguments)
    options = [text for text in unknown if text.startswith("-")]
    if options:
        name = options[0].partition("=")[0]
        known = [text for action in parser._actions for text in action.option_strings]
        parser.error(f"unknown option {name}{nearest(name, known)}; --help lists all")
    if unknown:
        parser.error(f"unexpected argument {unknown[0]!r}; --help lists all options")
    return given


def option_of(field: str) -> str:
    """Return the option of a field, e.g. "--golden-count" of "golden_count"."""
    return f"--{field.replace('_', '-')}"


def nearest(text: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the known word nearest to `text`, or nothing."""
    found = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def options_table(parser: argparse.ArgumentParser) -> str:
    """Return the options of a parser as the table of docs/import.md."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for action in parser._actions:
        field = ImportOptions.model_fields.get(action.dest)
        default = "" if action.default in (None, False, argparse.SUPPRESS) else action.default
        meaning = action.help or ""
        if field is not None:
            meaning = field.description or ""
            if choices := _choices(field):
                meaning = f"{', '.join(choices)}: {meaning}"
            default = "" if field.default in (None, {}, ()) else field.default
            if field.is_required():
                default = "required"
        shown = f"`{default}`" if default not in ("", "required") else default
        lines.append(f"| `{action.option_strings[-1]}` | {shown} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _choices(field: FieldInfo) -> tuple[str, ...]:
    for annotation in (field.annotation, *get_args(field.annotation)):
        if get_origin(annotation) is Literal:
            return get_args(annotation)
    return ()


def _mistake(error: ErrorDetails) -> str:
    """Say in one line what is wrong with which option."""
    name = str(error["loc"][0])
    field, value, kind = ImportOptions.model_fields[name], error["input"], error["type"]
    return f"{option_of(name)}: {_expectation(field, kind, value, error)}"


def _expectation(field: FieldInfo, kind: str, value: object, error: ErrorDetails) -> str:
    limits = error.get("ctx", {})
    match kind:
        case "missing":
            return f"is required: {field.description}"
        case "literal_error":
            choices = _choices(field)
            return (
                f"expected one of {', '.join(choices)}, found {value!r}"
                f"{nearest(str(value), choices)}"
            )
        case "path_not_file" | "path_not_directory":
            path = Path(str(value))
            if path.exists():
                return f"{path}: expected a {'file' if kind == 'path_not_file' else 'folder'}"
            what = "file" if kind == "path_not_file" else "folder"
            return f"{path}: no such {what}{_close_file(path)}"
        case "string_pattern_mismatch":
            return (
                "expected at most 63 lower-case letters, digits, '.', '_' and '-', a letter or "
                f"digit at both ends, found {value!r}"
            )
        case "value_error":
            return str(limits["error"])
        case "dict_type":
            return f"expected a JSON object, found a {type(value).__name__}"
        case _:
            return f"expected {_number(field)}, found {value!r}"


def _number(field: FieldInfo) -> str:
    """Describe the numbers a field takes, e.g. "a whole number from 2 to 4096"."""
    parts = ["a whole number" if field.annotation is int else "a number"]
    for limit in field.metadata:
        match limit:
            case Gt():
                parts.append(f"above {limit.gt}")
            case Ge():
                parts.append(f"from {limit.ge}")
            case Lt():
                parts.append(f"and below {limit.lt}")
    parts += [f"up to {limit.le}" for limit in field.metadata if isinstance(limit, Le)]
    return " ".join(parts)


def _close_file(path: Path) -> str:
    """Return "; did you mean …?" with the name nearest to a file that is not there."""
    folder = path.parent
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    found = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {folder / found[0]}?" if found else ""
