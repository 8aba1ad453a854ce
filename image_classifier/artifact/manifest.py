"""The identity of an artifact: everything that decides an answer, with the digest of each file."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from image_classifier.artifact.format import LABELS_NAME, Digest, FrozenModel
from preprocessing import DecodeRules, InputSpec, PreprocessingSpec

TORCHVISION = "torchvision"


class Architecture(BaseModel):
    """How to build the network, without its weights.

    Attributes:
        torchvision: Name of a torchvision classification model; None for a source file.
        file: Name of the source file in its source folder; None for torchvision.
        builder: Function or class in `file` that returns the network.
        kwargs: Keyword arguments of the builder, e.g. `num_classes`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")  # kwargs may hold infinite numbers

    torchvision: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    file: Annotated[str, Field(pattern=r"^[^/\x00-\x1f]+\.py$")] | None = None
    builder: Annotated[str, Field(pattern=r"^[^\W\d]\w*$")] | None = None
    kwargs: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> "Architecture":
        if (self.torchvision is None) == (self.file is None):
            raise ValueError("exactly one of torchvision and file must be given")
        if (self.file is None) != (self.builder is None):
            raise ValueError("file and builder belong together")
        return self

    def __str__(self) -> str:
        origin = f"{self.file}:{self.builder}"
        if self.torchvision:
            origin = f"{TORCHVISION}:{self.torchvision}"
        kwargs = ", ".join(f"{name}={value!r}" for name, value in self.kwargs.items())
        return f"{origin}({kwargs})" if kwargs else origin


ModelName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?$")]
"""A model name for BentoML: lower case, at most 63 characters, no punctuation at either end."""


class PreprocessingEntry(FrozenModel):
    """How a file becomes an input.

    Attributes:
        spec: The declarative preprocessing; None if the user's class is used.
        file: Name, inside the artifact, of the user's source file.
        class_name: Name of the class in `file`.
        decode: How file bytes become the image.
    """

    spec: PreprocessingSpec | None = None
    file: str | None = None
    class_name: str | None = None
    decode: DecodeRules

    @model_validator(mode="after")
    def _one_source(self) -> "PreprocessingEntry":
        if (self.spec is None) == (self.file is None):
            raise ValueError("exactly one of spec and file must be given")
        if (self.file is None) != (self.class_name is None):
            raise ValueError("file and class_name belong together")
        return self


Activation = Literal["softmax", "sigmoid", "none"]


class Outputs(FrozenModel):
    """What the logits mean.

    Attributes:
        activation: "softmax": exactly one label is right, the probabilities sum to 1. "sigmoid":
            each label is right or not by itself. "none": the logits are the answer.
        threshold: Least probability of a label in the answer, with "sigmoid" only; None
            answers with the most probable labels, however improbable.
    """

    activation: Activation = "softmax"
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _threshold_of_sigmoid(self) -> "Outputs":
        if self.threshold is not None and self.activation != "sigmoid":
            raise ValueError(f"threshold belongs to sigmoid, the activation is {self.activation}")
        return self

    def in_words(self, num_classes: int, labels: Sequence[str]) -> str:
        """Describe an answer.

        Args:
            num_classes: Width of the logits.
            labels: Names of the classes; one sigmoid output may have two.
        """
        if self.activation == "softmax":
            return "one label of all is right: probabilities (softmax) that sum to 1"
        if self.activation == "none":
            return "scores: the outputs of the network as they are, no probabilities"
        if num_classes == 1 and len(labels) == 2:
            words = (
                f"one of two labels: the sigmoid of the one output is the probability of "
                f"{labels[1]!r}, and {labels[0]!r} has the rest"
            )
            chosen = f"the answer is {labels[1]!r} from a probability of {self.threshold} on"
        else:
            words = "each label by itself is right or not: probabilities (sigmoid)"
            chosen = f"an answer holds the labels from a probability of {self.threshold} on"
        return words if self.threshold is None else f"{words}; {chosen}"


class Graph(FrozenModel):
    """One exported form of the network.

    Attributes:
        file: The graph: batch (n, H, W, C) in, logits (n, classes) out, n free.
        format: "onnx", "openvino" (OpenVINO's own, an .xml) or "torch" (a program of torch.export,
            whose weights are in weights.safetensors).
        precision: Of the numbers in the file. An engine may compute an fp32 graph in bf16 or fp16.
        companions: Further files that belong to the graph.
    """

    file: str
    format: Literal["onnx", "openvino", "torch"]
    precision: Literal["fp32", "int8"]
    companions: tuple[str, ...] = ()


class GoldenEntry(FrozenModel):
    """One golden sample: the original file, and its class if known.

    Attributes:
        file: Name inside the artifact.
        name: Name of the researcher's file.
        class_id: Index of the true class, or None.
        input_sha256: Digest of the preprocessed input, (H, W, C), C order.
    """

    file: str
    name: str
    class_id: int | None
    input_sha256: Digest


class Manifest(FrozenModel):
    """Everything that decides an answer. Its sha256 is the version of the artifact.

    Nothing in it depends on the machine that imported the model, on the time, or on which
    engines passed there: that is in `Evidence`.

    Attributes:
        num_classes: Width of the logits.
        architecture: How the network is built; None for a finished graph.
        graphs: All exported graphs, including those no engine passed with.
        takes_batches: Whether the graphs run more than one image at a time.
        conformance: Outcome of each case of `preprocessing.conformance_digests`, by name.
        golden: In the order of the rows of golden/logits.npy.
        files: sha256 of every file that decides an answer, by name.
    """

    schema_version: Literal[2]
    name: ModelName
    num_classes: Annotated[int, Field(ge=1)]
    architecture: Architecture | None
    input: InputSpec
    preprocessing: PreprocessingEntry
    outputs: Outputs
    graphs: Annotated[tuple[Graph, ...], Field(min_length=1)]
    takes_batches: bool = Field(default=True, exclude_if=lambda value: value)
    conformance: Annotated[dict[str, str], Field(min_length=1)]
    golden: Annotated[tuple[GoldenEntry, ...], Field(min_length=1)]
    files: dict[str, Digest]

    @model_validator(mode="after")
    def _used_files_have_digests(self) -> "Manifest":
        used = [entry.file for entry in self.golden] + [LABELS_NAME]
        used += [name for graph in self.graphs for name in (graph.file, *graph.companions)]
        if self.preprocessing.file is not None:
            used.append(self.preprocessing.file)
        if missing := sorted(set(used) - self.files.keys()):
            raise ValueError(f"no digest for {', '.join(missing)}")
        return self
