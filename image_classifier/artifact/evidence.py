"""The evidence of an artifact: proof, from one machine, that its engines match the reference."""

from typing import Annotated, Literal

from pydantic import Field

from image_classifier.artifact.format import ArtifactError, Digest, FrozenModel, Precision

EngineKind = Literal["openvino", "onnxruntime", "torch", "aotinductor"]


class Certificate(FrozenModel):
    """The comparison of an engine with the reference on the golden samples.

    Attributes:
        samples: Number of golden samples compared.
        max_logit_difference: Largest |engine logit - reference logit|.
        max_probability_difference: The same for probabilities; None if logits are served.
        tolerance: Allowed difference as a factor of `logit_scale`; None for engines judged by
            agreement.
        top1_agreement: Share of samples with the same top-1, in [0, 1], near-ties counted as
            equal; None with a sigmoid, where each label is judged by itself.
        label_agreement: With a sigmoid, the share of samples on which a label is decided as by
            the reference, for the label where it is lowest; logits within the tolerance of the
            threshold count as equal. Else None.
        required_agreement: Required share, of the top-1 or of each label.
        accuracy: Top-1 accuracy of the engine on labelled samples; None without labels.
        reference_accuracy: The same for the reference.
        max_accuracy_loss: Allowed loss of accuracy, in [0, 1].
    """

    samples: Annotated[int, Field(ge=1)]
    max_logit_difference: float
    max_probability_difference: float | None = None
    tolerance: float | None
    top1_agreement: float | None
    label_agreement: float | None = None
    required_agreement: float
    accuracy: float | None
    reference_accuracy: float | None
    max_accuracy_loss: float | None

    @property
    def agreement(self) -> float:
        """The agreement compared with `required_agreement`: of the top-1 or of the worst label."""
        return (self.label_agreement if self.top1_agreement is None else self.top1_agreement) or 0.0


class Package(FrozenModel):
    """A program that was compiled for one kind of machine: native code without weights.

    Attributes:
        file: Name inside the artifact.
        sha256: Digest of the file.
        target: Version of torch, GPU and processor that it runs on.
    """

    file: Annotated[str, Field(pattern=r"^engines/[\w-]+\.pt2$")]
    sha256: Digest
    target: str


class EngineGraph(FrozenModel):
    """An engine: a library that runs a graph in a precision.

    Attributes:
        precision: Precision of the computation; an fp32 graph may run in bf16 or fp16.
        file: Name of a graph of the manifest.
        package: What the engine aotinductor runs, else None.
    """

    kind: EngineKind
    precision: Precision
    file: str
    package: Package | None = Field(default=None, exclude_if=lambda package: package is None)

    @property
    def name(self) -> str:
        """Unique in an artifact, e.g. "openvino-int8"."""
        return f"{self.kind}-{self.precision}"


class CertifiedEngine(EngineGraph):
    """An engine that passed its gates."""

    certificate: Certificate


class Evidence(FrozenModel):
    """The certificates of an import.

    Equal imports on equal machines write the same bytes, except that packages, which hold times
    and paths of the compiler, differ.

    Attributes:
        identity_sha256: Digest of the manifest.
        reference: Source of the reference logits. "torch": eager fp32 torch at import (or the
            original graph, for a finished one); "given": the researcher's notebook, by --reference.
        reference_logits_sha256: Digest of golden/logits.npy. Its last bits differ from CPU to CPU.
        engines: The engines that passed.
        shrinking: Comparison of decoding large JPEGs at a reduced size with decoding them in full;
            None if they are decoded in full.
        ignored_weights: Names in the weights file that were not loaded into the network.
        versions: Version of each library the numbers depend on.
    """

    schema_version: Literal[2]
    identity_sha256: Digest
    reference: Literal["torch", "given"]
    reference_logits_sha256: Digest
    engines: Annotated[tuple[CertifiedEngine, ...], Field(min_length=1)]
    shrinking: Certificate | None
    ignored_weights: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    versions: dict[str, str]

    @property
    def packages(self) -> dict[str, str]:
        """The sha256 of each package, by file name."""
        found = (entry.package for entry in self.engines)
        return {package.file: package.sha256 for package in found if package is not None}

    def engine(self, name: str) -> CertifiedEngine:
        """Return the certified engine called `name`.

        Raises:
            ArtifactError: No engine has this name.
        """
        by_name = {entry.name: entry for entry in self.engines}
        if name not in by_name:
            raise ArtifactError(f"no certified engine {name!r}; there are {', '.join(by_name)}")
        return by_name[name]
