"""Compares the pipeline with the researcher's own numbers, and names what differs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from torch import nn

from artifact.golden_images import GoldenImage
from artifact.golden_images_reference import Reference
from artifact.manifest import PreprocessingEntry
from importer.console import Progress
from importer.errors import ImportRefused
from importer.network import PixelsToLogits
from importer.reference import reference_logits
from importer.variants import Variant, describe_geometry, single_variants
from inference.predictions import softmax
from preprocessing import DecodeLimits, PreprocessingSpec, Resize, SpecPreprocessing, to_input
from preprocessing.errors import ImageRejected, PreprocessingBug

PROBES = 3
"""Images a variant is tried on: those that disagree most."""
SEARCH_SECONDS = 60.0
"""The search ends then: all single mistakes and many pairs have been tried."""
PROBABILITY_TOLERANCE = 1e-3
"""Allowed difference of a probability; an fp32 pipeline differs by less than 1e-5."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The pipeline beside the reference.

    Attributes:
        reference: Rows of the golden images, float64 (n, classes).
        kind: "logits" or "probabilities".
        tolerance: Factor of max(1, |reference logit|).
    """

    reference: npt.NDArray[np.float64]
    kind: str
    tolerance: float

    def excess(self, logits: npt.NDArray[np.float32], rows: slice | list[int]) -> float:
        """Largest difference over what is allowed; 1 or less agrees."""
        expected = self.reference[rows]
        if self.kind == "probabilities":
            return float((np.abs(softmax(logits) - expected) / PROBABILITY_TOLERANCE).max())
        allowed = self.tolerance * np.maximum(1, np.abs(expected))
        return float((np.abs(logits - expected) / allowed).max())

    def difference(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Largest difference of each row, shape (n,)."""
        values = softmax(logits) if self.kind == "probabilities" else logits.astype(np.float64)
        worst: npt.NDArray[np.float64] = np.abs(values - self.reference).max(axis=1)
        return worst


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Tries variants of the preprocessing until one gives the reference's numbers.

    Attributes:
        network: The bare network, without normalisation.
        signature: The preprocessing that was given.
        images: The golden images, in the order of the comparison's rows.
        inputs: What the given preprocessing makes of them, (n, H, W, C).
    """

    network: nn.Module
    signature: PreprocessingEntry
    images: tuple[GoldenImage, ...]
    inputs: npt.NDArray[np.generic]
    comparison: Comparison

    def explain(self, logits: npt.NDArray[np.float32], progress: Progress) -> ImportRefused:
        """The refusal that names the likely cause.

        Args:
            logits: What the given pipeline computes, (n, classes).
        """
        differences = self.comparison.difference(logits)
        rows = [int(row) for row in np.argsort(-differences)[:PROBES]]
        name = self.images[rows[0]].name
        what = (
            f"the reference is not reproduced: {self.comparison.kind} differ by up to "
            f"{differences.max():.3g} (image {name}), median {np.median(differences):.3g}"
        )
        with progress.step("look for what differs from the reference"):
            cause = self._cause(rows)
        if cause is None:
            return ImportRefused(
                f"{what}; no usual difference of preprocessing explains it: check the weights, "
                "the network and the order of the classes"
            )
        return ImportRefused(f"{what}; likely cause: {cause}; change the preprocessing to match")

    def _cause(self, rows: list[int]) -> str | None:
        if self.signature.spec is None and (cause := self._cause_after_class(rows)):
            return cause
        start = self._given()
        singles = list(single_variants(start))
        pairs: Iterator[Variant] = chain.from_iterable(map(single_variants, singles))
        deadline = time.monotonic() + SEARCH_SECONDS
        for variant in chain([start] if start.causes else [], singles, pairs):
            if self._agrees(variant, rows):
                return "; and ".join(variant.causes)
            if time.monotonic() > deadline:
                break
        return None

    def _cause_after_class(self, rows: list[int]) -> str | None:
        """What can be changed behind a class of the user's: channel order, normalisation."""
        entry = self.signature
        if entry.input_dtype != "uint8":
            return None
        usual = self._given()
        for variant in (usual, *single_variants(usual)):
            if variant.spec.model_copy(
                update={"mean": usual.spec.mean, "std": usual.spec.std}
            ) == usual.spec and self._logits_agree(variant, rows, self.inputs[rows]):
                return "; and ".join(variant.causes[1:])
        return None

    def _given(self) -> Variant:
        """Where the search begins: the spec; for a class, the usual pipeline of its shape."""
        entry = self.signature
        if entry.spec is not None:
            return Variant(axis="", spec=entry.spec)
        height, width, _ = entry.input_shape
        spec = PreprocessingSpec(
            decode=entry.decode,
            resize=Resize(size=round(height * 256 / 224)),
            crop=(height, width),
            mean=entry.mean or (),
            std=entry.std or (),
        )
        words = (
            f"the class {entry.class_name} does not do what the reference does: "
            f"{describe_geometry(spec)}, bilinear"
        )
        return Variant(axis="", spec=spec, causes=(words,))

    def _agrees(self, variant: Variant, rows: list[int]) -> bool:
        preprocessing = SpecPreprocessing(variant.spec)
        # A variant may not fit the network or the picture: then it is not the cause.
        try:
            return all(
                self._logits_agree(
                    variant,
                    [row],
                    to_input(self.images[row].data, preprocessing, DecodeLimits())[np.newaxis],
                )
                for row in rows
            )
        except (ImageRejected, ImportRefused, PreprocessingBug):
            return False

    def _logits_agree(
        self, variant: Variant, rows: list[int], inputs: npt.NDArray[np.generic]
    ) -> bool:
        entry = self.signature.model_copy(
            update={
                "input_shape": inputs.shape[1:],
                "input_dtype": "uint8",
                "mean": variant.spec.mean,
                "std": variant.spec.std,
            }
        )
        network = PixelsToLogits(self.network, entry).eval()
        logits = reference_logits(network, variant.ordered(inputs))
        return self.comparison.excess(logits, rows) <= 1


def check_against_reference(
    diagnosis: Diagnosis, logits: npt.NDArray[np.float32], progress: Progress
) -> npt.NDArray[np.float32]:
    """Hold the pipeline to the researcher's numbers.

    Returns:
        The golden logits: the reference's own, or, where it holds probabilities, the logits
        that reproduce them.

    Raises:
        ImportRefused: They differ; the message names the likely cause.
    """
    comparison = diagnosis.comparison
    if comparison.excess(logits, slice(None)) > 1:
        raise diagnosis.explain(logits, progress)
    if comparison.kind == "probabilities":
        return logits
    return comparison.reference.astype(np.float32)


def comparison_with(
    reference: Reference, images: tuple[GoldenImage, ...], num_classes: int, tolerance: float
) -> Comparison:
    """The rows of the golden images."""
    return Comparison(
        reference=reference.rows([image.name for image in images], num_classes),
        kind=reference.kind,
        tolerance=tolerance,
    )
