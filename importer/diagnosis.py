"""Finds the preprocessing that reproduces a reference, where the given one does not."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ValidationError
from torch import nn

from image_classifier.artifact.manifest import Outputs, PreprocessingEntry
from image_classifier.inference.certificate import logit_scale
from image_classifier.inference.engine import Batch, Logits
from image_classifier.inference.predictions import activate
from importer.errors import ImportRefused
from importer.golden_images import GoldenImage, unseen_kinds
from importer.pixels_to_logits import PixelsToLogits, run_reference
from importer.plausibility import output_kind
from importer.reference import Kind, Reference
from preprocessing import (
    DecodeLimits,
    InputSpec,
    PreprocessingSpec,
    Resize,
    SpecPreprocessing,
    decode_image,
    to_input,
)
from preprocessing.decode import upright_turn
from preprocessing.errors import ImageRejected, PreprocessingBug

PROBABILITY_TOLERANCE = 1e-3
"""Largest allowed difference of a probability, and allowed share of an image's largest one; an fp32
pipeline differs by less than 1e-5."""
SATURATED = 1e-3
"""Distance from 0 or 1 below which a probability shows little of the logits."""
SPREAD_TOLERANCE = 0.1
"""Allowed difference, as a share of the range of the class that varies most over the images."""
NORMALISATIONS = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
    ((0.0,) * 3, (1.0,) * 3),  # none, pixels in [0, 1]
    ((0.5,) * 3, (0.5,) * 3),  # Inception and many vision transformers, pixels in [-1, 1]
    ((0.0,) * 3, (1 / 255,) * 3),  # no scaling, pixels in [0, 255]
)
DECODING: dict[str, tuple[object, ...]] = {
    "exif_orientation": (True, False),
    "grey16": ("scale", "clip"),
    "alpha": ("drop", "white", "black"),
    "shrink_jpeg_to_side": (None,),
}
"""Rule of `decode` → its usual values."""
RESIZE_RATIOS = (1.0, 256 / 224, 1 / 0.9, 1 / 0.95)
"""Shorter side ÷ crop in timm's presets."""
RESIZE_SIZES = (256, 224, 232, 236, 240, 246, 272, 288, 299, 320, 384, 518)
"""Shorter sides in torchvision's presets."""
CROPS = (224, 225, 227, 192, 240, 256, 288, 299, 384)
SEARCH_CPU_SECONDS = 60.0
"""Processor time of the search; enough for all single mistakes and many pairs."""
UNPROVEN_CPU_SECONDS = 10.0
"""Processor time of `unproven_keys`; enough for 100 images of 2 megapixels."""
NEARLY = 0.1
"""A variant that leaves less than this share of the difference is reported as nearly right."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The researcher's numbers for the golden images, and how logits are compared with them.

    Attributes:
        logits: Those of the pipeline here, float32 (n, classes).
        expected: The researcher's numbers, float64 (n, classes).
        kind: What they are.
        outputs: What the network's outputs mean.
        tolerance: Allowed difference of a logit, as a factor of `logit_scale`.
    """

    logits: Logits
    expected: npt.NDArray[np.float64]
    kind: Kind
    outputs: Outputs
    tolerance: float

    @classmethod
    def of(
        cls,
        reference: Reference,
        images: tuple[GoldenImage, ...],
        logits: Logits,
        outputs: Outputs,
        tolerance: float,
    ) -> "Comparison":
        """Take the rows of the golden images.

        Raises:
            ImportRefused: An image has no row, the rows have another width, or the numbers are not
                what they are saved as or what the activation gives.
        """
        expected = reference.rows([image.name for image in images], logits.shape[1])
        found = (output_kind(expected), outputs.activation)
        comparison = cls(
            logits=logits,
            expected=expected,
            kind=reference.kind,
            outputs=outputs,
            tolerance=tolerance,
        )
        if reference.kind == "logits":
            activated = found in {("probabilities", "softmax"), ("unit-interval", "sigmoid")}
            if activated and comparison.excess(logits) > 1:
                raise ImportRefused(
                    f"{reference.path}: its logits look like the probabilities after a "
                    f"{outputs.activation}; save them as probabilities="
                )
        elif found == ("unit-interval", "softmax"):
            sums = expected.sum(axis=1)
            near = np.abs(sums - 1).max() <= 0.0005 * expected.shape[1]
            if near and np.allclose(expected, expected.round(4), rtol=0, atol=1e-6):
                raise ImportRefused(
                    f"{reference.path}: its probabilities are rounded, so that those of an image "
                    f"sum to {sums[np.abs(sums - 1).argmax()]:.4g}; save them unrounded"
                )
            raise ImportRefused(
                f"{reference.path}: its probabilities do not sum to 1, as those of a softmax do; "
                "if several labels of an image may be right, add --activation sigmoid"
            )
        elif found == ("probabilities", "sigmoid"):
            raise ImportRefused(
                f"{reference.path}: its probabilities sum to 1 in each row, as those of a softmax "
                "do; leave --activation sigmoid out"
            )
        return comparison

    @property
    def saturated(self) -> bool:
        """Whether probabilities of half of the images are all within 0.001 of 0 or 1."""
        distance = np.minimum(self.expected, 1 - self.expected).max(axis=1)
        return self.kind == "probabilities" and float(np.median(distance)) < SATURATED

    @property
    def differences(self) -> npt.NDArray[np.float64]:
        """The largest difference of each image, shape (n,)."""
        return np.asarray(np.abs(self._numbers(self.logits) - self.expected).max(axis=1))

    def excess(self, logits: Logits, row: int | None = None) -> float:
        """Return the largest ratio of a difference to the allowed one; at most 1 agrees.

        Args:
            logits: Of all images, (n, classes), or of image number `row`, (1, classes).
        """
        rows = slice(None) if row is None else [row]
        differences = np.abs(self._numbers(logits) - self.expected[rows])
        return float((differences / self._allowed()[rows]).max())

    def _allowed(self) -> npt.NDArray[np.float64]:
        """Return the largest allowed differences, of the shape of `expected`."""
        if self.kind == "logits":
            return self.tolerance * logit_scale(self.expected, self.outputs.activation)
        # Stricter if probabilities are small, as those of 1000 classes, or vary little over the
        # images: a difference of 0.001 would then be too large.
        spread = SPREAD_TOLERANCE * np.ptp(self.expected, axis=0).max()
        largest = PROBABILITY_TOLERANCE * self.expected.max(axis=1, keepdims=True)
        allowed = np.minimum(PROBABILITY_TOLERANCE, np.maximum(largest, spread))
        return np.broadcast_to(allowed, self.expected.shape)

    @property
    def golden_logits(self) -> Logits:
        """The researcher's logits, or `logits` if the researcher saved probabilities."""
        return self.expected.astype(np.float32) if self.kind == "logits" else self.logits

    def _numbers(self, logits: Logits) -> npt.NDArray[np.float64]:
        return (
            logits.astype(np.float64) if self.kind == "logits" else activate(logits, self.outputs)
        )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way in which the research pipeline may differ from the given preprocessing.

    Attributes:
        spec: The changed spec.
        original: The spec before all changes; None if it replaces a class of the user's.
        reverse_channels: Whether the network gets BGR.
        after_class: Whether only steps after the user's class are changed.
        changed: Names of the changed steps.
    """

    spec: PreprocessingSpec
    original: PreprocessingSpec | None
    reverse_channels: bool = False
    after_class: bool = False
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the changes, with the keys and values of a spec."""
        words = ["the channels in the opposite order (BGR for RGB)"] * self.reverse_channels
        if self.original is None:
            spec = self.spec.model_dump_json(exclude_defaults=True)
            return ", ".join([f"the spec {spec} in place of the class", *words])
        before = _values_by_key(self.original)
        words += [
            f"{key}: {json.dumps(value)} (given is {json.dumps(before.get(key))})"
            for key, value in _values_by_key(self.spec).items()
            if value != before.get(key)
        ]
        return ", ".join(words)


def _values_by_key(spec: PreprocessingSpec) -> dict[str, object]:
    """Return the values of a spec by key, such as "resize.size"."""
    values: dict[str, object] = {}
    for name, value in spec:
        if isinstance(value, BaseModel):
            values |= {f"{name}.{key}": item for key, item in value}
        else:
            values[name] = value
    return values


def further_variants(variant: Variant) -> Iterator[Variant]:
    """Yield all variants with one more changed step, the likelier ones first."""
    spec, changed = variant.spec, variant.changed
    if "channels" not in changed and spec.input_shape[2] == 3:
        yield replace(variant, reverse_channels=True, changed=(*changed, "channels"))
    seen = {spec}
    for step, fields in _alternatives(spec):
        if step in changed or (variant.after_class and step != "normalisation"):
            continue
        try:
            other = PreprocessingSpec.model_validate({**spec.model_dump(), **fields})
        except ValidationError:  # such as lanczos without antialias
            continue
        if other not in seen:
            seen.add(other)
            yield replace(variant, spec=other, changed=(*changed, step))


def unproven_keys(images: Sequence[GoldenImage], entry: PreprocessingEntry) -> list[str]:
    """Name the keys of a spec whose usual values all give these images the same inputs.

    For a class of the user's these are keys of its `decode`, and decoded images are compared. A key
    not decided in `UNPROVEN_CPU_SECONDS` is named, too.
    """
    spec = entry.spec or PreprocessingSpec(decode=entry.decode, crop=1)
    given = Variant(spec=spec, original=spec)
    before = _values_by_key(spec)
    others: dict[str, list[Variant]] = {}
    for variant in further_variants(given):
        keys = [
            key
            for key, item in _values_by_key(variant.spec).items()
            if key != "crop" and _one_side(item) != _one_side(before.get(key))
        ]
        keys += ["the order of RGB"] * variant.reverse_channels
        # Normalisation is no part of these inputs, and the network proves their shape.
        usable = len(keys) == 1 and variant.changed[0] != "normalisation"
        usable &= variant.spec.input_shape == spec.input_shape
        if usable and (entry.spec is not None or variant.changed[0] in DECODING):
            others.setdefault(keys[0], []).append(variant)

    def pixels(image: GoldenImage, variant: Variant) -> Batch:
        changed = SpecPreprocessing(variant.spec)
        try:
            if entry.spec is None:
                return np.asarray(decode_image(image.data, changed.decode, DecodeLimits()))
            array = to_input(image.data, changed, DecodeLimits())
        except ImageRejected:  # unlike the given one
            return np.empty(0)
        return array[..., ::-1] if variant.reverse_channels else array

    deadline = time.process_time() + UNPROVEN_CPU_SECONDS
    for image in _rarest_first(images):
        same = pixels(image, given)
        others = {
            key: variants
            for key, variants in others.items()
            if all(np.array_equal(pixels(image, variant), same) for variant in variants)
        }
        if not others or time.process_time() > deadline:
            break
    return sorted(others)


def _one_side(value: object) -> object:
    """Return 32 for (32, 32), which means the same as a size."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _rarest_first(images: Sequence[GoldenImage]) -> list[GoldenImage]:
    """Sort images by how many are of their kind: colour mode, transparency and orientation."""
    kinds = []
    for image in images:
        with Image.open(BytesIO(image.data)) as opened:
            kinds.append((opened.mode, opened.has_transparency_data, upright_turn(opened)))
    counts = Counter(kinds)
    order = sorted(range(len(images)), key=lambda row: counts[kinds[row]])
    return [images[row] for row in order]


def _alternatives(spec: PreprocessingSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield steps that may be wrong, each with fields of a spec that are usual for it."""
    channels = spec.input_shape[2]
    for mean, std in NORMALISATIONS:
        yield "normalisation", {"mean": mean[:channels], "std": std[:channels]}
    for rule, values in DECODING.items():
        for value in values:
            yield rule, {"decode": {**spec.decode.model_dump(), rule: value}}
    yield from (("geometry", fields) for fields in _geometries(spec))
    for rounding in ("down", "even") if spec.crop is not None else ():
        yield "rounding", {"crop_rounding": rounding}
    if spec.resize is not None:
        for name in ("bilinear", "bicubic", "lanczos", "nearest"):
            for backend, antialias in (("pil", True), ("tensor", True), ("tensor", False)):
                change = {"interpolation": name, "backend": backend, "antialias": antialias}
                yield "filter", {"resize": {**spec.resize.model_dump(), **change}}


def _geometries(spec: PreprocessingSpec) -> Iterator[dict[str, Any]]:
    resize = {} if spec.resize is None else spec.resize.model_dump()
    current = [resize["size"]] if isinstance(resize.get("size"), int) else []
    if isinstance(resize.get("size"), tuple):  # (W, H) for (H, W)
        yield {"resize": {**resize, "size": resize["size"][::-1]}, "crop": None}
    if resize.get("max_size"):
        yield {"resize": {**resize, "max_size": None}}
    for crop in (spec.input_shape[0], *(CROPS if spec.crop is not None else ())):
        sides = [round(crop * ratio) for ratio in RESIZE_RATIOS]
        for size in (*sides, *RESIZE_SIZES, *current):
            if size >= crop:
                yield {"resize": {**resize, "mode": "shorter_side", "size": size}, "crop": crop}
        for size in (*sides[:2], *current):
            exact = {"mode": "exact", "size": size, "max_size": None}
            yield {"resize": {**resize, **exact}, "crop": crop}


def explain_difference(
    comparison: Comparison,
    *,
    network: nn.Module,
    preprocessing: PreprocessingEntry,
    input_spec: InputSpec,
    images: tuple[GoldenImage, ...],
    inputs: Batch,
) -> ImportRefused:
    """Try variants of the preprocessing until one gives the reference's numbers.

    Args:
        network: The network without normalisation.
        images: The golden images, in the order of the comparison's rows.
        inputs: Their inputs by the given preprocessing, (n, H, W, C).

    Returns:
        The refusal with the likely cause, which is confirmed on all images.
    """
    differences = comparison.differences
    worst_first = [int(row) for row in np.argsort(-differences)]
    found = (
        f"the reference is not reproduced: {comparison.kind} differ by up to "
        f"{differences.max():.3g} (image {images[worst_first[0]].name}), median "
        f"{np.median(differences):.3g}"
    )
    deadline = time.process_time() + SEARCH_CPU_SECONDS

    def excess_of(variant: Variant, row: int) -> float:
        batch = inputs[[row]]
        if not variant.after_class:
            changed = SpecPreprocessing(variant.spec)
            batch = to_input(images[row].data, changed, DecodeLimits())[np.newaxis]
        if variant.reverse_channels:
            batch = batch[..., ::-1]
        spec = InputSpec(
            shape=batch.shape[1:], dtype="uint8", mean=variant.spec.mean, std=variant.spec.std
        )
        return comparison.excess(run_reference(PixelsToLogits(network, spec).eval(), batch), row)

    def nearest(variants: Iterable[Variant], left: float) -> tuple[Variant | None, float]:
        """Return the variant with the least difference, if at most `left`, and its difference.

        The search ends at the deadline, or with a variant within the tolerance.
        """
        best: Variant | None = None
        for variant in variants:
            worst = 0.0
            try:
                for row in worst_first:
                    worst = max(worst, excess_of(variant, row))
                    if worst > left:
                        break
            except (ImageRejected, ImportRefused, PreprocessingBug):
                continue  # it does not fit the network or an image
            # Of equal variants the first, which is the most usual.
            if worst < left or (best is None and worst == left):
                best, left = variant, worst
            if (best is not None and left <= 1) or time.process_time() > deadline:
                break
        return best, left

    singles = list(_single_variants(preprocessing, input_spec))
    best, left = nearest(singles, max(1, NEARLY * comparison.excess(comparison.logits)))
    if best is None or left > 1:
        # Two mistakes: that which explains most and another, or else any two.
        starts = singles if best is None else [best]
        pair, left = nearest(chain.from_iterable(map(further_variants, starts)), left)
        best = pair or best
    if best is None:
        return ImportRefused(
            f"{found}; no usual difference of preprocessing explains it: check that each row is "
            "that of its name in `files` and was computed after model.eval(), in float32 (no "
            "autocast); compare the steps (mean and std, padding, height and width, 8 bits of "
            "16-bit grey images), then the weights, the network and the order of the classes"
        )
    if left <= 1:
        doubt = " (uncertain, since most probabilities are 0 or 1: save logits)"
        doubt *= comparison.saturated
        if "geometry" in best.changed and "other than square" in unseen_kinds(images):
            doubt += ", which cannot be told from resize.mode: exact, as all images are square"
        return ImportRefused(
            f"{found}; likely cause: the reference's numbers come with {best}{doubt}; change the "
            "preprocessing to match"
        )
    return ImportRefused(
        f"{found}; nearly reproduced, up to {left:.3g} times the tolerance, with this change: "
        f"{best}; the remaining difference is typical of a notebook that decodes or resizes with "
        "another library (cv2, skimage), which no spec reproduces: resize with PIL or torchvision "
        "in the notebook and save its numbers again, or give a preprocessing class with the "
        "notebook's own calls"
    )


def _single_variants(entry: PreprocessingEntry, input_spec: InputSpec) -> Iterator[Variant]:
    """Yield variants with one change; for a class, those of the usual spec of its shape."""
    if entry.spec is not None:
        yield from further_variants(Variant(spec=entry.spec, original=entry.spec))
        return
    height, width, channels = input_spec.shape
    try:
        spec = PreprocessingSpec(
            decode=entry.decode,
            resize=Resize(size=round(height * 256 / 224)),
            crop=(height, width),
            mean=input_spec.mean or (0.0,) * channels,
            std=input_spec.std or (1.0,) * channels,
        )
    except ValidationError:  # no spec makes such inputs
        return
    if input_spec.dtype == "uint8":
        yield from further_variants(Variant(spec=spec, original=spec, after_class=True))
    usual = Variant(spec=spec, original=None)
    yield usual
    yield from further_variants(usual)
