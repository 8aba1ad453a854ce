"""The description of an artifact: what it holds, how it was proven, the digest of every file."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from image_classifier.artifact.format import (
    GOLDEN_LOGITS_NAME,
    LABELS_NAME,
    ArtifactError,
    Digest,
    FrozenModel,
    first_problem,
)
from preprocessing import DecodeRules, PreprocessingSpec

if TYPE_CHECKING:
    pass


TORCHVISION = "torchvision"
NOT_SETTABLE = frozenset({"weights", "weights_backbone", "progress", "pretrained"})
"""Builder arguments that decide about weights, which come from the checkpoint alone."""


class Architecture(BaseModel):
    """How to build the network, without its weights.

    Attributes:
        torchvision: Name of a torchvision classification model; None for a source file.
        file: Name of the source file in its source folder; None for torchvision.
        builder: Function or class in `file` that returns the network.
        kwargs: Keyword arguments of the builder, e.g. `num_classes`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    torchvision: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    file: Annotated[str, Field(pattern=r"^\w[\w.-]*\.py$")] | None = None
    builder: Annotated[str, Field(pattern=r"^[^\W\d]\w*$")] | None = None
    kwargs: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> "Architecture":
        if (self.torchvision is None) == (self.file is None):
            raise ValueError("exactly one of torchvision and file must be given")
        if (self.file is None) != (self.builder is None):
            raise ValueError("file and builder belong together")
        return self

    @classmethod
    def parse(cls, text: str, kwargs: Mapping[str, JsonValue]) -> "Architecture":
        """Read `torchvision:resnet50` or `path/network.py:build`.

        Only the name of the file is kept; `source_folder(text)` is where it lies.

        Raises:
            ArtifactError: Neither form, or a keyword that decides about weights.
        """
        if refused := sorted(NOT_SETTABLE & kwargs.keys()):
            raise ArtifactError(
                f"network {text}: argument {', '.join(refused)} cannot be set; "
                "weights come from the checkpoint alone"
            )
        origin, _, name = text.rpartition(":")
        if origin == TORCHVISION and name.isidentifier():
            return cls(torchvision=name, kwargs=dict(kwargs))
        if origin.endswith(".py") and name.isidentifier():
            return cls(file=Path(origin).name, builder=name, kwargs=dict(kwargs))
        raise ArtifactError(
            f"network {text!r}: expected torchvision:NAME or PATH.py:FUNCTION, "
            "e.g. torchvision:resnet50 or network.py:build"
        )

    def __str__(self) -> str:
        origin = (
            f"{TORCHVISION}:{self.torchvision}"
            if self.torchvision
            else f"{self.file}:{self.builder}"
        )
        given = ", ".join(f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"{origin}({given})" if given else origin


def describe_geometry(spec: PreprocessingSpec) -> str:
    """Resize and crop in words."""
    resize = "no resize"
    if spec.resize is not None:
        kind = "the shorter side" if spec.resize.mode == "shorter_side" else "both sides (squash)"
        resize = f"resize {kind} to {spec.resize.size}"
    return f"{resize}, {'no crop' if spec.crop is None else f'crop {spec.crop}'}"


SCHEMA_VERSION: Final = 1
"""Raised with every change that an older program cannot read; see docs/artifact.md."""
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")]
"""What BentoML takes for a name: lower case, at most 63 characters, no mark at either end."""
EngineKind = Literal["openvino", "onnxruntime", "torchscript"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


class Certificate(FrozenModel):
    """The measured proof that a way to compute equals the reference, on the golden samples.

    Attributes:
        samples: Golden samples compared.
        max_logit_difference: Largest |engine logit - reference logit|.
        tolerance: What was allowed: a factor of max(1, |reference logit|); None for engines
            whose gate is agreement.
        top1_agreement: Share of samples with the same top-1, near-ties aside, in [0, 1].
        required_agreement: Share that was required.
        accuracy: Share of labelled samples the engine reads right; None without labels.
        reference_accuracy: The same of the reference.
        max_accuracy_loss: Loss of accuracy that was allowed, in [0, 1].
    """

    samples: Annotated[int, Field(ge=1)]
    max_logit_difference: float
    tolerance: float | None
    top1_agreement: float
    required_agreement: float
    accuracy: float | None
    reference_accuracy: float | None
    max_accuracy_loss: float | None


class PreprocessingEntry(FrozenModel):
    """The preprocessing that serves, and the facts the exported graph relies on.

    Attributes:
        spec: The declarative preprocessing; None where a class of the user's serves.
        file: Name, inside the artifact, of the user's source file.
        class_name: The class in it.
        decode: How file bytes become the image.
        input_shape: (H, W, C) of one input.
        input_dtype: "uint8": the graph scales and normalises; "float32": the class did.
        mean, std: One value a channel on the [0, 1] scale; None for float32 inputs.
        shrinking: Proof that decoding large JPEGs at a reduced size changes no answer that
            counts; None where they are decoded in full.
    """

    spec: PreprocessingSpec | None = None
    file: str | None = None
    class_name: str | None = None
    decode: DecodeRules
    input_shape: tuple[int, int, int]
    input_dtype: Literal["uint8", "float32"]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    shrinking: Certificate | None = Field(
        default=None,
        # Left out where there is none: manifests written before there was one keep their bytes.
        exclude_if=lambda value: value is None,
    )

    @model_validator(mode="after")
    def _one_source(self) -> "PreprocessingEntry":
        if (self.spec is None) == (self.file is None):
            raise ValueError("exactly one of spec and file must be given")
        if (self.file is None) != (self.class_name is None):
            raise ValueError("file and class_name belong together")
        return self


class EngineGraph(FrozenModel):
    """One way to run the network.

    Attributes:
        file: The graph: batch (n, H, W, C) in, logits (n, classes) out, n free.
        companions: Further files the graph needs beside it.
    """

    kind: EngineKind
    precision: Precision
    file: str
    companions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a manifest, e.g. "openvino-int8"."""
        return f"{self.kind}-{self.precision}"


class EngineEntry(EngineGraph):
    """An engine that is proven equal to the reference."""

    certificate: Certificate


class GoldenEntry(FrozenModel):
    """One golden sample: the original file, and its class where known.

    Attributes:
        file: Name inside the artifact.
        name: Name the researcher gave the file.
        class_id: Index of the true class, or None.
        input_sha256: Digest of the input the preprocessing makes of it, (H, W, C), C order.
    """

    file: str
    name: str
    class_id: int | None
    input_sha256: Digest


class Manifest(FrozenModel):
    """Everything needed to reproduce the numbers. Its own sha256 names the artifact.

    Attributes:
        golden: In the order of the rows of golden/logits.npy.
        reference: "torch": the golden logits are those of eager fp32 torch at import;
            "given": they came with --reference from the researcher's notebook.
        versions: Version of each library the numbers depend on.
        files: sha256 of every file of the artifact but the manifest and the import record.
    """

    schema_version: Literal[1]
    name: ModelName
    num_classes: Annotated[int, Field(ge=1)]
    architecture: Architecture | None
    preprocessing: PreprocessingEntry
    engines: Annotated[tuple[EngineEntry, ...], Field(min_length=1)]
    golden: Annotated[tuple[GoldenEntry, ...], Field(min_length=1)]
    reference: Literal["torch", "given"]
    versions: dict[str, str]
    files: dict[str, Digest]

    @model_validator(mode="after")
    def _names_stay_inside(self) -> "Manifest":
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name in (".", "") or name != str(path):
                raise ValueError(f"file name {name!r} leaves the artifact")
        used = [entry.file for entry in self.golden] + [LABELS_NAME, GOLDEN_LOGITS_NAME]
        used += [name for entry in self.engines for name in (entry.file, *entry.companions)]
        if self.preprocessing.file is not None:
            used.append(self.preprocessing.file)
        if missing := sorted(set(used) - self.files.keys()):
            raise ValueError(f"no digest for {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _engines_have_names_of_their_own(self) -> "Manifest":
        names = [entry.name for entry in self.engines]
        if len(set(names)) < len(names):
            raise ValueError(f"two engines of one name: {', '.join(names)}")
        return self

    def engine(self, name: str) -> EngineEntry:
        """The certified engine called `name`.

        Raises:
            ArtifactError: No engine has this name.
        """
        for entry in self.engines:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.engines)
        raise ArtifactError(f"model {self.name}: no certified engine {name!r}; there are {known}")

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, two spaces, one final newline."""
        data = self.model_dump(mode="json")
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest of any released schema version.

    Args:
        data: The bytes of manifest.json.
        where: Named in errors.

    Raises:
        ArtifactError: Not a manifest, or of a version this program does not know.
    """
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not JSON; import the model again") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{where}: schema version is {version!r}, this program reads 1..{SCHEMA_VERSION}; "
            "import the model again or use the program that wrote it"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        problem = first_problem(error, "manifest")
        raise ArtifactError(f"{where}: {problem}; import the model again") from error
