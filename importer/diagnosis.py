"""Why a reference is not reproduced: the preprocessing that would."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from torch import nn

from image_classifier.artifact.manifest import InputSpec, PreprocessingEntry, describe_geometry
from image_classifier.inference.predictions import softmax
from importer.errors import ImportRefused
from importer.golden_images import GoldenImage
from importer.pixels_to_logits import PixelsToLogits, run_reference
from importer.progress import Progress
from importer.reference import Reference
from preprocessing import DecodeLimits, PreprocessingSpec, Resize, SpecPreprocessing, to_input
from preprocessing.errors import ImageRejected, PreprocessingBug

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Inception's and many vision transformers' normalisation."""
RESIZE_RATIOS = (1.0, 256 / 224, 1 / 0.9, 1 / 0.95)
"""Shorter side ÷ crop, as timm's presets have it."""
RESIZE_SIZES = (256, 224, 232, 236, 240, 246, 272, 288, 299, 320, 384, 518)
"""Shorter sides in torchvision's presets."""
CROPS = (224, 225, 227, 192, 240, 256, 288, 299, 384)

Inputs = npt.NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way the research pipeline may differ from the preprocessing that was given.

    Attributes:
        axis: What it changes; two variants of one axis exclude each other.
        spec: The changed spec.
        reverse_channels: Whether the network is to get BGR.
        causes: What the reference seems to do that the given preprocessing does not, in words.
    """

    axis: str
    spec: PreprocessingSpec
    reverse_channels: bool = False
    causes: tuple[str, ...] = ()

    def ordered(self, inputs: Inputs) -> Inputs:
        """Inputs (n, H, W, C) in the channel order of this variant."""
        return np.ascontiguousarray(inputs[..., ::-1]) if self.reverse_channels else inputs


def single_variants(given: Variant) -> Iterator[Variant]:
    """All variants that differ from `given` in one thing, the likelier mistakes first."""
    for axis, changes in (
        ("channels", _channels(given)),
        ("normalisation", _normalisation(given)),
        ("geometry", _geometry(given)),
        ("interpolation", _interpolation(given)),
        ("orientation", _orientation(given)),
    ):
        if axis not in given.axis.split("+"):
            for spec, reverse, cause in changes:
                yield Variant(
                    axis=f"{given.axis}+{axis}",
                    spec=spec,
                    reverse_channels=reverse,
                    causes=(*given.causes, cause),
                )


Change = tuple[PreprocessingSpec, bool, str]


def _channels(given: Variant) -> Iterator[Change]:
    if given.spec.input_shape[2] == 3:
        cause = (
            "channel order: the reference feeds the channels in the opposite order (BGR for RGB)"
        )
        yield given.spec, not given.reverse_channels, cause


def _normalisation(given: Variant) -> Iterator[Change]:
    spec, channels = given.spec, given.spec.input_shape[2]
    options = [
        (IMAGENET[0][:channels], IMAGENET[1][:channels], "ImageNet's mean and std"),
        ((0.0,) * channels, (1.0,) * channels, "no mean and std, pixels in [0, 1]"),
        (HALF[0][:channels], HALF[1][:channels], "mean 0.5 and std 0.5, pixels in [-1, 1]"),
        ((0.0,) * channels, (1 / 255,) * channels, "no scaling, pixels in [0, 255]"),
    ]
    for mean, std, words in options:
        if (mean, std) != (spec.mean, spec.std):
            cause = f"normalisation: the reference uses {words}, given is {_numbers(spec)}"
            yield _changed(spec, mean=mean, std=std), given.reverse_channels, cause


def _numbers(spec: PreprocessingSpec) -> str:
    return f"mean {list(spec.mean)}, std {list(spec.std)}"


def _geometry(given: Variant) -> Iterator[Change]:
    spec = given.spec
    before = describe_geometry(spec)
    crops = [spec.input_shape[0], *CROPS] if spec.crop is not None else [spec.input_shape[0]]
    seen = {before}
    for crop in dict.fromkeys(crops):
        sizes = [*(round(crop * ratio) for ratio in RESIZE_RATIOS), *RESIZE_SIZES]
        resizes: list[dict[str, Any]] = [
            {"mode": "shorter_side", "size": size} for size in sizes if size >= crop
        ]
        if spec.resize is not None and isinstance(spec.resize.size, int):
            resizes.append({"mode": "shorter_side", "size": spec.resize.size})
        resizes += [{"mode": "exact", "size": round(crop * ratio)} for ratio in RESIZE_RATIOS[:2]]
        for resize in resizes:
            changed = _with_resize(spec, resize, crop)
            if changed is not None and describe_geometry(changed) not in seen:
                seen.add(describe_geometry(changed))
                cause = (
                    "resize size, aspect ratio or crop: the reference does "
                    f"{describe_geometry(changed)}, given is {before}"
                )
                yield changed, given.reverse_channels, cause


def _interpolation(given: Variant) -> Iterator[Change]:
    resize = given.spec.resize
    if resize is None:
        return
    before = f"{resize.interpolation}, {_antialias(resize.backend, antialias=resize.antialias)}"
    for name in ("bilinear", "bicubic", "lanczos", "nearest"):
        for backend, antialias in (("pil", True), ("tensor", True), ("tensor", False)):
            change = {"interpolation": name, "backend": backend, "antialias": antialias}
            changed = _with_resize(given.spec, change, given.spec.crop)
            words = f"{name}, {_antialias(backend, antialias=antialias)}"
            if changed is not None and words != before:
                cause = (
                    "interpolation or antialias: the reference resizes with "
                    f"{words}, given is {before}"
                )
                yield changed, given.reverse_channels, cause


def _antialias(backend: str, *, antialias: bool) -> str:
    if backend == "pil":
        return "antialias (PIL)"
    return "antialias (tensor)" if antialias else "no antialias (tensor)"


def _orientation(given: Variant) -> Iterator[Change]:
    rules = given.spec.decode
    does = "ignores" if rules.exif_orientation else "applies"
    changed = rules.model_copy(update={"exif_orientation": not rules.exif_orientation})
    cause = f"EXIF: the reference {does} the orientation in the file, the given one does not"
    yield _changed(given.spec, decode=changed), given.reverse_channels, cause


def _with_resize(
    spec: PreprocessingSpec, change: dict[str, Any], crop: int | tuple[int, int] | None
) -> PreprocessingSpec | None:
    before = {} if spec.resize is None else spec.resize.model_dump()
    merged = {**before, **change}
    if merged.get("mode") == "exact":
        merged["max_size"] = None
    # Some combinations are no spec (lanczos without antialias): there is no such variant.
    try:
        return PreprocessingSpec.model_validate(
            {**spec.model_dump(), "resize": merged, "crop": crop}
        )
    except ValidationError:
        return None


def _changed(spec: PreprocessingSpec, **update: Any) -> PreprocessingSpec:
    return PreprocessingSpec.model_validate({**spec.model_dump(), **update})


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
        preprocessing: The one that was given.
        input_spec: Of the inputs it makes.
        images: The golden images, in the order of the comparison's rows.
        inputs: What the given preprocessing makes of them, (n, H, W, C).
    """

    network: nn.Module
    preprocessing: PreprocessingEntry
    input_spec: InputSpec
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
        if self.preprocessing.spec is None and (cause := self._cause_after_class(rows)):
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
        if self.input_spec.dtype != "uint8":
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
        entry, input_spec = self.preprocessing, self.input_spec
        if entry.spec is not None:
            return Variant(axis="", spec=entry.spec)
        height, width, _ = input_spec.shape
        spec = PreprocessingSpec(
            decode=entry.decode,
            resize=Resize(size=round(height * 256 / 224)),
            crop=(height, width),
            mean=input_spec.mean or (),
            std=input_spec.std or (),
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
        input_spec = self.input_spec.model_copy(
            update={
                "shape": inputs.shape[1:],
                "dtype": "uint8",
                "mean": variant.spec.mean,
                "std": variant.spec.std,
            }
        )
        network = PixelsToLogits(self.network, input_spec).eval()
        logits = run_reference(network, variant.ordered(inputs))
        return self.comparison.excess(logits, rows) <= 1


def check_against_reference(
    given: Reference,
    logits: npt.NDArray[np.float32],
    *,
    network: nn.Module,
    preprocessing: PreprocessingEntry,
    input_spec: InputSpec,
    images: tuple[GoldenImage, ...],
    inputs: Inputs,
    tolerance: float,
    progress: Progress,
) -> npt.NDArray[np.float32]:
    """Hold the pipeline to the researcher's numbers.

    Args:
        given: The numbers, by file name.
        logits: What the pipeline computes, (n, classes).
        network: The bare network, without normalisation.
        preprocessing: The one that was given.
        input_spec: Of the inputs it makes.
        images: The golden images.
        inputs: What the preprocessing makes of them, (n, H, W, C).
        tolerance: Allowed difference of a logit, as a factor of max(1, |reference logit|).

    Returns:
        The golden logits: the reference's own, or, where it holds probabilities, the logits
        that reproduce them.

    Raises:
        ImportRefused: They differ; the message names the likely cause.
    """
    comparison = Comparison(
        reference=given.rows([image.name for image in images], logits.shape[1]),
        kind=given.kind,
        tolerance=tolerance,
    )
    if comparison.excess(logits, slice(None)) > 1:
        diagnosis = Diagnosis(
            network=network,
            preprocessing=preprocessing,
            input_spec=input_spec,
            images=images,
            inputs=inputs,
            comparison=comparison,
        )
        raise diagnosis.explain(logits, progress)
    if comparison.kind == "probabilities":
        return logits
    return comparison.reference.astype(np.float32)
