"""Why a reference is not reproduced: the preprocessing that would."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from torch import nn

from image_classifier.artifact.format import ArtifactError
from image_classifier.artifact.manifest import (
    InputSpec,
    Outputs,
    PreprocessingEntry,
    describe_geometry,
)
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.predictions import activate
from importer.errors import ImportRefused
from importer.golden_images import GoldenImage
from importer.pixels_to_logits import PixelsToLogits, run_reference
from importer.plausibility import output_kind
from importer.reference import Kind, Reference
from preprocessing import DecodeLimits, PreprocessingSpec, Resize, SpecPreprocessing, to_input
from preprocessing.errors import ImageRejected, PreprocessingBug

PROBABILITY_TOLERANCE = 1e-3
"""Allowed difference of a probability; an fp32 pipeline differs by less than 1e-5."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Inception's and many vision transformers' normalisation."""
RESIZE_RATIOS = (1.0, 256 / 224, 1 / 0.9, 1 / 0.95)
"""Shorter side ÷ crop, as timm's presets have it."""
RESIZE_SIZES = (256, 224, 232, 236, 240, 246, 272, 288, 299, 320, 384, 518)
"""Shorter sides in torchvision's presets."""
CROPS = (224, 225, 227, 192, 240, 256, 288, 299, 384)
SEARCH_CPU_SECONDS = 60.0
"""Processor time of the search: all single mistakes and many pairs have been tried then."""
NEARLY = 0.1
"""A variant that leaves less than this part of the difference is named as nearly right."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The researcher's numbers for the golden images, and how this pipeline's are compared.

    Attributes:
        expected: float64 (n, classes).
        kind: What they are.
        outputs: What the network's outputs mean.
        tolerance: Of logits and log-probabilities: a factor of max(1, |number|).
    """

    expected: npt.NDArray[np.float64]
    kind: Kind
    outputs: Outputs
    tolerance: float

    @classmethod
    def of(
        cls,
        given: Reference,
        images: tuple[GoldenImage, ...],
        logits: Logits,
        outputs: Outputs,
        tolerance: float,
    ) -> "Comparison":
        """Take the rows of the golden images.

        Numbers that are called logits, are not those of this pipeline, and look like
        probabilities or log-probabilities are taken for these.

        Raises:
            ArtifactError: No row for an image, another width, or probabilities that the activation
                does not give.
        """
        expected = given.rows([image.name for image in images], logits.shape[1])
        looks, kind, activation = output_kind(expected), given.kind, outputs.activation
        called = cls(expected=expected, kind=kind, outputs=outputs, tolerance=tolerance)
        if kind == "logits" and activation != "none" and not called.agrees(logits):
            if looks == "log-probabilities":
                kind = "log_probabilities"
            elif looks == "probabilities" or (looks, activation) == ("unit-interval", "sigmoid"):
                kind = "probabilities"
        if kind == "probabilities" and (looks, activation) == ("unit-interval", "softmax"):
            raise ArtifactError(
                f"{given.path}: its probabilities do not sum to 1, as those of a softmax do; if "
                "each label is right or not by itself, add --activation sigmoid"
            )
        if kind == "probabilities" and (looks, activation) == ("probabilities", "sigmoid"):
            raise ArtifactError(
                f"{given.path}: its probabilities sum to 1 in each row, as those of a softmax do; "
                "leave --activation sigmoid out"
            )
        return replace(called, kind=kind)

    def agrees(self, logits: Logits) -> bool:
        """Say whether the logits of all images, (n, classes), give the researcher's numbers."""
        return self.excess(logits, list(range(len(logits)))) <= 1

    def differences(self, logits: Logits, rows: list[int]) -> npt.NDArray[np.float64]:
        """Return the largest difference of each of some rows, shape (len(rows),)."""
        return np.asarray(np.abs(self._numbers(logits) - self.expected[rows]).max(axis=1))

    def excess(self, logits: Logits, rows: list[int]) -> float:
        """Return the largest difference over what is allowed; 1 or less agrees."""
        expected = self.expected[rows]
        allowed = self.tolerance * np.maximum(1, np.abs(expected))
        if self.kind == "probabilities":
            allowed = np.full_like(expected, PROBABILITY_TOLERANCE)
        return float((np.abs(self._numbers(logits) - expected) / allowed).max())

    def golden_logits(self, logits: Logits) -> Logits:
        """Return the researcher's logits, or, of other numbers, `logits` that reproduce them."""
        return self.expected.astype(np.float32) if self.kind == "logits" else logits

    def _numbers(self, logits: Logits) -> npt.NDArray[np.float64]:
        if self.kind == "logits":
            return logits.astype(np.float64)
        probabilities = activate(logits, self.outputs)
        if self.kind == "probabilities":
            return probabilities
        return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way the research pipeline may differ from the preprocessing that was given.

    Attributes:
        axes: What it changes; two changes of one axis exclude each other.
        spec: The changed spec.
        reverse_channels: Whether the network is to get BGR.
        behind_class: Whether the inputs are those of the user's class, and only what comes after
            it is changed.
        causes: What the reference seems to do that the given preprocessing does not, in words.
    """

    axes: tuple[str, ...] = ()
    spec: PreprocessingSpec
    reverse_channels: bool = False
    behind_class: bool = False
    causes: tuple[str, ...] = ()


Change = tuple[PreprocessingSpec, str]


def single_variants(given: Variant) -> Iterator[Variant]:
    """Yield all variants that differ from `given` in one thing, the likelier mistakes first."""
    if "channels" not in given.axes and given.spec.input_shape[2] == 3:
        cause = (
            "channel order: the reference feeds the channels in the opposite order (BGR for RGB)"
        )
        yield replace(
            given,
            axes=(*given.axes, "channels"),
            reverse_channels=True,
            causes=(*given.causes, cause),
        )
    for axis, changes in (
        ("normalisation", _normalisation(given.spec)),
        ("orientation", _decoding(given.spec, "exif_orientation", (True, False))),
        ("grey16", _decoding(given.spec, "grey16", ("scale", "clip"))),
        ("alpha", _decoding(given.spec, "alpha", ("drop", "white", "black"))),
        ("geometry", _geometry(given.spec)),
        ("interpolation", _interpolation(given.spec)),
    ):
        if axis not in given.axes and (axis == "normalisation" or not given.behind_class):
            for spec, cause in changes:
                yield replace(
                    given, axes=(*given.axes, axis), spec=spec, causes=(*given.causes, cause)
                )


def _normalisation(spec: PreprocessingSpec) -> Iterator[Change]:
    channels = spec.input_shape[2]
    options = [
        (IMAGENET[0][:channels], IMAGENET[1][:channels], "ImageNet's mean and std"),
        ((0.0,) * channels, (1.0,) * channels, "no mean and std, pixels in [0, 1]"),
        (HALF[0][:channels], HALF[1][:channels], "mean 0.5 and std 0.5, pixels in [-1, 1]"),
        ((0.0,) * channels, (1 / 255,) * channels, "no scaling, pixels in [0, 255]"),
    ]
    for mean, std, words in options:
        if (mean, std) != (spec.mean, spec.std):
            yield (
                _changed(spec, mean=mean, std=std),
                f"normalisation: the reference uses {words}, given is mean {list(spec.mean)}, std "
                f"{list(spec.std)}",
            )


def _decoding(spec: PreprocessingSpec, rule: str, values: tuple[object, ...]) -> Iterator[Change]:
    words = {
        "exif_orientation": "EXIF: the orientation in the file",
        "grey16": "16-bit grey",
        "alpha": "transparency",
    }[rule]
    given = getattr(spec.decode, rule)
    for value in values:
        if value != given:
            shown, before = (str(one).lower() for one in (value, given))
            yield (
                _changed(spec, decode=spec.decode.model_copy(update={rule: value})),
                f"{words}: the reference decodes as decode.{rule}: {shown}, given is {before}",
            )


def _geometry(spec: PreprocessingSpec) -> Iterator[Change]:
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
                yield (
                    changed,
                    "resize size, aspect ratio or crop: the reference does "
                    f"{describe_geometry(changed)}, given is {before}",
                )


def _interpolation(spec: PreprocessingSpec) -> Iterator[Change]:
    if spec.resize is None:
        return
    before = _filter(spec.resize)
    for name in ("bilinear", "bicubic", "lanczos", "nearest"):
        for backend, antialias in (("pil", True), ("tensor", True), ("tensor", False)):
            change = {"interpolation": name, "backend": backend, "antialias": antialias}
            changed = _with_resize(spec, change, spec.crop)
            if changed and changed.resize and _filter(changed.resize) != before:
                yield (
                    changed,
                    "interpolation or antialias: the reference resizes with "
                    f"{_filter(changed.resize)}, given is {before}",
                )


def _filter(resize: Resize) -> str:
    kind = "antialias (PIL)" if resize.backend == "pil" else "antialias (tensor)"
    return f"{resize.interpolation}, {kind if resize.antialias else f'no {kind}'}"


def _with_resize(
    spec: PreprocessingSpec, change: dict[str, Any], crop: int | tuple[int, int] | None
) -> PreprocessingSpec | None:
    before = {} if spec.resize is None else spec.resize.model_dump()
    merged = {**before, **change}
    if merged.get("mode") == "exact":
        merged["max_size"] = None
    # Some combinations are no spec (lanczos without antialias): there is no such variant.
    try:
        return _changed(spec, resize=merged, crop=crop)
    except ValidationError:
        return None


def _changed(spec: PreprocessingSpec, **update: Any) -> PreprocessingSpec:
    return PreprocessingSpec.model_validate({**spec.model_dump(), **update})


@dataclass(frozen=True, kw_only=True)
class CauseSearch:
    """Tries variants of the preprocessing until one gives the reference's numbers.

    Attributes:
        network: The bare network, without normalisation.
        preprocessing: The one that was given.
        input_spec: Of the inputs it makes.
        images: The golden images, in the order of the comparison's rows.
        inputs: What the given preprocessing makes of them, (n, H, W, C).
        comparison: What they are compared with.
    """

    network: nn.Module
    preprocessing: PreprocessingEntry
    input_spec: InputSpec
    images: tuple[GoldenImage, ...]
    inputs: Batch
    comparison: Comparison

    def explain(self, logits: Logits) -> ImportRefused:
        """Return the refusal that names the likely cause.

        Args:
            logits: What the given pipeline computes, (n, classes).
        """
        everything = list(range(len(logits)))
        differences = self.comparison.differences(logits, everything)
        worst_first = [int(row) for row in np.argsort(-differences)]
        found = (
            f"the reference is not reproduced: {self.comparison.kind} differ by up to "
            f"{differences.max():.3g} (image {self.images[worst_first[0]].name}), median "
            f"{np.median(differences):.3g}"
        )
        deadline = time.process_time() + SEARCH_CPU_SECONDS
        left = max(1, NEARLY * self.comparison.excess(logits, everything))
        singles = list(self._singles())
        nearest, left = self._nearest(singles, worst_first, left, deadline)
        if nearest is None or left > 1:
            # Two mistakes: the one that explains most and another, or else any two.
            starts = singles if nearest is None else [nearest]
            pairs = chain.from_iterable(map(single_variants, starts))
            pair, left = self._nearest(pairs, worst_first, left, deadline)
            nearest = pair or nearest
        if nearest is not None and left <= 1:
            return ImportRefused(
                f"{found}; likely cause: {'; and '.join(nearest.causes)}; change the preprocessing "
                "to match"
            )
        if nearest is None:
            return ImportRefused(
                f"{found}; no usual difference of preprocessing explains it: check the weights, "
                "the network and the order of the classes"
            )
        return ImportRefused(
            f"{found}; nearly reproduced, up to {left:.3g} times the tolerance, with this change: "
            f"{'; and '.join(nearest.causes)}; such a rest is left where the notebook decodes or "
            "resizes with another library (cv2, skimage), which no spec repeats: resize with PIL "
            "or torchvision in the notebook and save its numbers again, or give a preprocessing "
            "class that makes the notebook's own calls"
        )

    def _singles(self) -> Iterator[Variant]:
        try:
            start = self._given()
        except ValidationError:  # a class whose inputs no spec makes
            return
        if self.preprocessing.spec is None and self.input_spec.dtype == "uint8":
            yield from single_variants(replace(start, behind_class=True, causes=()))
        if start.causes:
            yield start
        yield from single_variants(start)

    def _nearest(
        self, variants: Iterable[Variant], rows: list[int], left: float, deadline: float
    ) -> tuple[Variant | None, float]:
        """Return the variant that leaves least of the difference, and what it leaves.

        One that leaves no more than is allowed ends the search, and so does the deadline. None
        where each leaves more than `left`.
        """
        nearest = None
        for variant in variants:
            excess = self._excess(variant, rows, limit=left)
            # Of equal ones the first, which is the most usual.
            if excess < left or (nearest is None and excess == left):
                nearest, left = variant, excess
            if (nearest is not None and left <= 1) or time.process_time() > deadline:
                break
        return nearest, left

    def _given(self) -> Variant:
        """Return where the search begins: the spec; for a class, the usual one of its shape."""
        entry, input_spec = self.preprocessing, self.input_spec
        if entry.spec is not None:
            return Variant(spec=entry.spec)
        height, width, channels = input_spec.shape
        spec = PreprocessingSpec(
            decode=entry.decode,
            resize=Resize(size=round(height * 256 / 224)),
            crop=(height, width),
            mean=input_spec.mean or (0.0,) * channels,
            std=input_spec.std or (1.0,) * channels,
        )
        words = (
            f"the class {entry.class_name} does not do what the reference does: "
            f"{describe_geometry(spec)}, bilinear"
        )
        return Variant(spec=spec, causes=(words,))

    def _excess(self, variant: Variant, rows: list[int], *, limit: float) -> float:
        """Return the largest excess over some images; the first beyond the limit ends it."""
        worst = 0.0
        # A variant may not fit the network or the picture: then it is not the cause.
        try:
            for row in rows:
                worst = max(worst, self._excess_of_image(variant, row))
                if worst > limit:
                    break
        except (ImageRejected, ImportRefused, PreprocessingBug):
            return float("inf")
        return worst

    def _excess_of_image(self, variant: Variant, row: int) -> float:
        inputs = self.inputs[[row]]
        if not variant.behind_class:
            preprocessing = SpecPreprocessing(variant.spec)
            inputs = to_input(self.images[row].data, preprocessing, DecodeLimits())[np.newaxis]
        if variant.reverse_channels:
            inputs = inputs[..., ::-1]
        input_spec = InputSpec(
            shape=inputs.shape[1:], dtype="uint8", mean=variant.spec.mean, std=variant.spec.std
        )
        logits = run_reference(PixelsToLogits(self.network, input_spec).eval(), inputs)
        return self.comparison.excess(logits, [row])
