"""The options of model_import.py: one declaration for the command line, its help and the docs.

Imports neither numpy nor torch, so that a wrong command line is answered at once.
"""

import argparse
import difflib
import functools
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
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

if TYPE_CHECKING:
    from image_classifier.inference.certificate import Gates

TORCHVISION = "torchvision"
SPEC_SUFFIXES = (".yaml", ".yml", ".json")
NETWORK_FORMS = "torchvision:NAME or PATH.py:FUNCTION"
PREPROCESSING_FORMS = "a spec file (.yaml, .json), PATH.py:CLASS or torchvision:NAME/WEIGHTS"
PRECISIONS = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "torch": ("fp32", "bf16", "fp16"),
}
"""Kind of engine → the precisions it may be tried in; importer/candidates.py has the graphs."""


def _parsed_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object: {error}") from error


def _split(value: object) -> object:
    """Return the parts of values such as "a,b", each given once or several times."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        return texts
    return tuple(part.strip() for text in texts for part in str(text).split(","))


def _lock_place(path: Path) -> Path:
    """Refuse a place that takes no lock. Found out at the end, it would leave the store changed."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{path}: there is no folder {folder}; make it")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no file; expected the name of a file to write")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: the folder {folder} cannot be written; give another place")
    return path


FindingName = Literal[
    "batch-dependent",
    "chance-accuracy",
    "channel-order",
    "class-order",
    "constant-logits",
    "mean-std-scale",
    "permuted-labels",
    "sigmoid-twice",
    "unstable-reference",
]
"""What makes an import implausible and may be accepted; importer/plausibility.py finds it."""


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_parsed_json)]
Listed = Annotated[tuple[str, ...], BeforeValidator(_split)]
PathText = Annotated[str, BeforeValidator(lambda it: str(it) if isinstance(it, Path) else it)]
LockPath = Annotated[Path, AfterValidator(_lock_place)]


class Options(BaseModel):
    """Options of a command line. A field is an option."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CommandOptions(Options):
    """Options of commands, beside those of an import."""

    top_k: int = Field(5, ge=1, description="predictions an image, at most all classes")
    digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="sha256 its manifest must have; `show` says it"
    )
    lock: LockPath | None = Field(
        None, description="the lock to write (default: model.lock of this program)"
    )


RENEWED = (
    *("accept", "calibration", "calibration_count", "serving_requirements"),
    *("gate_fp32_tolerance", "gate_agreement", "gate_accuracy_loss"),
    *("device", "engine", "precision", "budget_ms", "measure_seconds"),
)
"""Options of an import that `renew` takes too; the rest is what the artifact holds."""
FLAGS = {
    "csv": "result as CSV on standard output",
    "json": "result as JSON on standard output",
    "quiet": "no progress",
}


class ImportOptions(Options):
    """What the person importing a model asked for."""

    name: str = Field(  # as `ModelName` of the manifest; a test compares them
        pattern="^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$",
        description="name in the model store, lower case",
    )
    network: str | None = Field(
        None, description=f"{NETWORK_FORMS}; leave it out for a finished graph"
    )
    network_kwargs: JsonObject = Field(
        {}, description="arguments of the builder, e.g. '{\"num_classes\": 10}'"
    )
    weights: str = Field(
        description="checkpoint (.safetensors, .pt, .pth, …), name of torchvision's weights, "
        "or, without --network, a TorchScript or ONNX file"
    )
    weights_key: str | None = Field(
        None,
        description="where in a checkpoint the weights are, e.g. model_ema (default: found)",
    )
    weights_prefix: str | None = Field(
        None, description="take the names that start with this and cut it off, e.g. net."
    )
    weights_ignore: tuple[str, ...] = Field(
        (), description="pattern of names in a checkpoint to leave out; may be repeated"
    )
    preprocessing: str | None = Field(
        None, description=f"{PREPROCESSING_FORMS} (default: that of torchvision's weights)"
    )
    serving_requirements: FilePath | None = Field(
        None,
        description="lock with what a preprocessing class needs beyond the bento's packages",
    )
    labels: PathText | None = Field(
        None,
        description="file with one name a line, a JSON list or JSON id → name, or "
        "torchvision:NAME/WEIGHTS (default: those of torchvision's weights)",
    )
    activation: Literal["softmax", "sigmoid", "none"] | None = Field(
        None,
        description="what makes probabilities of the outputs (default: as the network shows)",
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="sigmoid: probability from which a label is answered"
    )
    golden: DirectoryPath = Field(description="folder of images the model is verified with")
    golden_labels: FilePath | None = Field(None, description="CSV with the classes of these images")
    golden_count: int = Field(100, ge=2, le=4096, description="images kept, evenly over classes")
    reference: FilePath | None = Field(
        None, description="logits or probabilities that your notebook computed"
    )
    accept: Listed = Field(
        (), description="finding to import in spite of, as a refusal names it; repeatable"
    )
    calibration: DirectoryPath | None = Field(
        None,
        description="folder of calibration images for int8 (default: the golden images)",
    )
    calibration_count: int = Field(64, ge=1, le=4096, description="how many of them")
    gate_fp32_tolerance: float = Field(
        0.001, gt=0, description="fp32: largest difference of a logit, times max(1, |logit|)"
    )
    gate_agreement: float = Field(
        0.99,
        ge=0,
        le=1,
        description="bf16, fp16, int8: share of images with the reference's top-1",
    )
    gate_accuracy_loss: float = Field(
        0.005,
        ge=0,
        le=1,
        description="bf16, fp16, int8: share of labelled images that may be lost",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it will serve")
    engine: Literal["auto", "openvino", "onnxruntime", "torch"] = Field(
        "auto", description="one kind of engine; auto: all that fit the device"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto", description="one precision; auto: all that the golden images can tell apart"
    )
    budget_ms: float = Field(50.0, gt=0, description="latency an answer may take, in milliseconds")
    measure_seconds: float = Field(
        0.4, gt=0, le=60, description="duration of one point of a latency curve"
    )

    @property
    def gates(self) -> "Gates":
        """The three gates as one value."""
        # Imported here: it needs numpy, and wrong arguments are to be answered at once.
        from image_classifier.inference.certificate import Gates

        return Gates(
            fp32_tolerance=self.gate_fp32_tolerance,
            min_agreement=self.gate_agreement,
            max_accuracy_loss=self.gate_accuracy_loss,
        )

    @field_validator("accept")
    @classmethod
    def _check_accept(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = get_args(FindingName)
        if unknown := [name for name in names if name not in known]:
            found = ", ".join(f"{name!r}{nearest(name, known)}" for name in unknown)
            raise ValueError(f"expected one of {', '.join(known)}, found {found}")
        return names

    @field_validator("threshold")
    @classmethod
    def _check_threshold(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("activation", "sigmoid") != "sigmoid":
            raise ValueError("belongs to --activation sigmoid")
        return value

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, value: str, info: ValidationInfo) -> str:
        known = ("auto", *PRECISIONS.get(info.data.get("engine", "auto"), (value,)))
        if value not in known:
            raise ValueError(
                f"--engine {info.data['engine']} has no {value}; expected one of {', '.join(known)}"
            )
        return value

    @field_validator("network")
    @classmethod
    def _check_network(cls, text: str | None) -> str | None:
        origin, _, name = (text or "").rpartition(":")
        if origin == TORCHVISION:
            _check_published(name, None)
        elif text is not None:
            _check_source(text, NETWORK_FORMS)
        return text

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, text: str, info: ValidationInfo) -> str:
        origin, _, name = (info.data.get("network") or "").rpartition(":")
        if origin == TORCHVISION and text.isidentifier() and not Path(text).exists():
            _check_published(name, text)
        else:
            _check_file(text)
        return text

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, text: str | None) -> str | None:
        origin, _, name = (text or "").partition(":")
        if origin == TORCHVISION:
            _check_published(*split_published(name))
        elif text is not None:
            _check_file(text)
        return text

    @field_validator("preprocessing")
    @classmethod
    def _check_preprocessing(cls, text: str | None) -> str | None:
        origin, _, name = (text or "").rpartition(":")
        if origin == TORCHVISION:
            _check_published(*split_published(name))
        elif text is not None and text.endswith(SPEC_SUFFIXES):
            _check_file(text)
        elif text is not None:
            _check_source(text, PREPROCESSING_FORMS)
        return text


def _check_file(text: str) -> None:
    if not Path(text).is_file():
        raise ValueError(no_such(Path(text), "file"))


def _check_source(text: str, forms: str) -> None:
    """Refuse what is not `PATH.py:NAME` of a file that is there."""
    origin, _, name = text.rpartition(":")
    if not origin.endswith(".py") or not name.isidentifier():
        raise ValueError(f"expected {forms}, found {text!r}")
    _check_file(origin)


def split_published(text: str) -> tuple[str, str | None]:
    """Return network and weights of `NAME/WEIGHTS`; None where no weights are named."""
    network, _, weights = text.partition("/")
    return network, weights or None


def _check_published(network: str, weights: str | None) -> None:
    """Refuse a network that torchvision does not have, or weights that it does not publish."""
    known = torchvision_weights()
    if known and network not in known:
        raise ValueError(f"torchvision has no classifier {network!r}{nearest(network, known)}")
    members = known.get(network, ())
    if members and weights is not None and weights not in members:
        raise ValueError(
            f"expected a file or one of {', '.join(members)}, found {weights!r}"
            f"{nearest(weights, members)}"
        )


@functools.cache
def torchvision_weights() -> dict[str, tuple[str, ...]]:
    """Return classifiers of torchvision → names of their weights; empty where none is installed.

    Read from its source: to import it takes seconds. Builders of 0.29 are declared as
    `@register_model()`, … `def NAME(*, weights: Optional[NAME_Weights] = …`, and weights as
    members of `class NAME_Weights(WeightsEnum)`.
    """
    found = importlib.util.find_spec(TORCHVISION)
    folder = Path(found.origin or "").parent / "models" if found else Path()
    known: dict[str, tuple[str, ...]] = {}
    for file in folder.glob("*.py") if found else ():
        text = file.read_text(encoding="utf-8")
        members = {
            name: tuple(re.findall(r"^    (\w+) = ", body, re.MULTILINE))
            for name, body in re.findall(
                r"^class (\w+)\(WeightsEnum\):\n((?:    .*\n|\n)+)", text, re.MULTILINE
            )
        }
        for name, weights in re.findall(
            r"@register_model\(\)\n(?:@.*\n)*def (\w+)\([^)]*?weights: Optional\[(\w+)\]", text
        ):
            known[name] = members.get(weights, ())
    return known


GROUPS = {
    "name": "the model",
    "golden": "the proof",
    "gate_fp32_tolerance": "gates",
    "device": "engines",
    "top_k": "output",
    "digest": "output",
    "lock": "output",
}
"""First option of a group → its title in the help."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line each, without the usage in front."""

    def refuse(self, mistakes: Iterable[str]) -> NoReturn:
        """Print each mistake and exit with status 2."""
        self.exit(2, "".join(f"model_import: {mistake}\n" for mistake in mistakes))

    def error(self, message: str) -> NoReturn:
        """See `refuse`."""
        self.refuse([message])

    def add_options(self, model: type[Options], names: Iterable[str] | None = None) -> None:
        """Add an option for each field of `model`, or for those in `names`.

        Every value is taken as text: `read` checks all of them together.
        """
        group: Any = self
        for name, field in model.model_fields.items():
            if names is not None and name not in names:
                continue
            if name in GROUPS:
                group = self.add_argument_group(GROUPS[name])
            help_text = (field.description or "").replace("%", "%%")
            if field.default not in (None, {}, ()) and not field.is_required():
                help_text += f" (default {field.default})"
            group.add_argument(
                option_of(name),
                action="append",
                default=argparse.SUPPRESS,
                metavar="|".join(_choices(field)) or name.rpartition("_")[2].upper(),
                help=f"{help_text} (required)" if field.is_required() else help_text,
            )

    def add_flags(self, *names: str) -> None:
        """Add options without a value."""
        for name in names:
            self.add_argument(f"--{name}", action="store_true", help=FLAGS[name])

    def read(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
        """Return the options, each a list of texts, the words beside them, and the mistakes."""
        mistakes = []
        kept = []
        for text, following in zip_longest(arguments, arguments[1:], fillvalue="--"):
            action = self._option_string_actions.get(text)
            if action is not None and action.nargs is None and re.match(r"-(?![\d.])", following):
                mistakes.append(f"{text}: expected a value")
            else:
                kept.append(text)
        given, rest = self.parse_known_args(kept)
        words = []
        while rest:
            text = rest.pop(0)
            if not text.startswith("-") or text == "-":
                words.append(text)
                continue
            name, equals, _ = text.partition("=")
            close = nearest(name, self._option_string_actions)
            mistakes.append(f"unknown option {name}{close}; --help lists all")
            if not equals and rest and not rest[0].startswith("-"):
                rest.pop(0)  # its value
        return given, words, mistakes


def option_values(
    given: argparse.Namespace, model: type[Options], *, partial: bool = False
) -> tuple[dict[str, object], list[str]]:
    """Return the values of the fields of `model`, and a line for each mistake in them.

    Args:
        given: What `Parser.read` returned.
        partial: Whether required options may be missing.
    """
    values: dict[str, object] = {}
    mistakes = []
    for name, field in model.model_fields.items():
        texts = getattr(given, name, [])
        if len(texts) > 1 and get_origin(field.annotation) is not tuple:
            mistakes.append(f"{option_of(name)}: given {len(texts)} times")
        if texts:
            values[name] = texts if get_origin(field.annotation) is tuple else texts[-1]
    try:
        model.model_validate(values)
    except ValidationError as error:
        mistakes += mistakes_of(error, model, partial=partial)
    return values, mistakes


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
        default = ""
        meaning = action.help or ""
        if field is not None:
            meaning = field.description or ""
            if choices := _choices(field):
                meaning = f"{', '.join(choices)}: {meaning}"
            default = "" if field.default in (None, {}, ()) else f"`{field.default}`"
            if field.is_required():
                default = "required"
        meaning = meaning.replace("|", "\\|")
        lines.append(f"| `{action.option_strings[-1]}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _choices(field: FieldInfo) -> tuple[str, ...]:
    for annotation in (field.annotation, *get_args(field.annotation)):
        if get_origin(annotation) is Literal:
            return get_args(annotation)
    return ()


def mistakes_of(
    error: ValidationError, model: type[Options], *, partial: bool = False
) -> list[str]:
    """Say in a line each what is wrong with which option."""
    return [
        f"{option_of(str(item['loc'][0]))}: {_mistake(item, model)}"
        for item in error.errors(include_url=False)
        if not (partial and item["type"] == "missing")
    ]


def _mistake(error: ErrorDetails, model: type[Options]) -> str:
    field, value = model.model_fields[str(error["loc"][0])], error["input"]
    match error["type"]:
        case "missing":
            return f"is required: {field.description}"
        case "literal_error":
            choices = _choices(field)
            found = f"{value!r}{nearest(str(value), choices)}"
            return f"expected one of {', '.join(choices)}, found {found}"
        case "path_not_file":
            return no_such(Path(str(value)), "file")
        case "path_not_directory":
            return no_such(Path(str(value)), "folder")
        case "string_pattern_mismatch" if model is CommandOptions:
            return f"expected 64 digits of 0-9 and a-f, found {value!r}"
        case "string_pattern_mismatch":
            return (
                "expected at most 63 lower-case letters, digits, '.', '_' and '-', a letter or "
                f"digit at both ends, found {value!r}"
            )
        case "value_error":
            return str(error["ctx"]["error"])
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


def no_such(path: Path, kind: str) -> str:
    """Say that a file or folder is not there, with the nearest name that is."""
    if path.exists():
        return f"{path}: expected a {kind}"
    names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    found = difflib.get_close_matches(path.name, names, n=1)
    return f"{path}: no such {kind}{f'; did you mean {path.parent / found[0]}?' if found else ''}"
