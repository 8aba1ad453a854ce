"""The evidence of an artifact: the proof, on one machine, that its engines equal the reference."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from image_classifier.artifact.format import ArtifactError, Digest, FrozenModel, Precision

EngineKind = Literal["openvino", "onnxruntime", "torch"]


class Certificate(FrozenModel):
    """The measured proof that an engine equals the reference, on the golden samples.

    Attributes:
        samples: Golden samples compared.
        max_logit_difference: Largest |engine logit - reference logit|.
        max_probability_difference: The same of the probabilities that are served; None where the
            logits themselves are.
        tolerance: What was allowed: a factor of `logit_scale`; None for engines
            whose gate is agreement.
        top1_agreement: Share of samples with the same top-1, near-ties aside, in [0, 1]; None with
            a sigmoid, which judges each label by itself.
        label_agreement: With a sigmoid, the lowest share, over labels, of samples that are decided
            as by the reference; logits within the tolerance of the threshold are left out. Else
            None.
        required_agreement: Share that was required, of the top-1 or of each label.
        accuracy: Share of labelled samples whose class the engine answers first; None without
            labels.
        reference_accuracy: The same of the reference.
        max_accuracy_loss: Loss of accuracy that was allowed, in [0, 1].
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
        """The agreement that the gate judges: of the top-1, or of the worst label."""
        return (self.label_agreement if self.top1_agreement is None else self.top1_agreement) or 0.0


class EngineGraph(FrozenModel):
    """An engine: a library that runs a graph in a precision.

    Attributes:
        precision: The numbers are computed in; a graph in fp32 may be run in bf16 or fp16.
        file: Name of a graph of the manifest.
    """

    kind: EngineKind
    precision: Precision
    file: str

    @property
    def name(self) -> str:
        """Unique in an artifact, e.g. "openvino-int8"."""
        return f"{self.kind}-{self.precision}"


class CertifiedEngine(EngineGraph):
    """An engine that is proven equal to the reference."""

    certificate: Certificate


class Evidence(FrozenModel):
    """What an import proved. The same import on the same kind of machine writes the same bytes.

    Attributes:
        identity_sha256: Digest of the manifest this is the evidence of.
        reference: "torch": the reference logits are those of eager fp32 torch (of the original
            graph, for a finished one) at import; "given": they came with --reference from the
            researcher's notebook.
        reference_logits_sha256: Digest of golden/logits.npy. Its last bits differ from CPU to CPU.
        engines: Those that passed.
        shrinking: Proof that decoding large JPEGs at a reduced size changes no answer that
            counts; None where they are decoded in full.
        ignored_weights: Names in the file of weights that the network did not get.
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

    @model_validator(mode="after")
    def _engines_have_names_of_their_own(self) -> "Evidence":
        names = [entry.name for entry in self.engines]
        if len(set(names)) < len(names):
            raise ValueError(f"two engines of one name: {', '.join(names)}")
        return self

    def engine(self, name: str) -> CertifiedEngine:
        """Return the certified engine called `name`.

        Raises:
            ArtifactError: No engine has this name.
        """
        for entry in self.engines:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.engines)
        raise ArtifactError(f"no certified engine {name!r}; there are {known}")
