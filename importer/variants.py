"""Preprocessing mistakes that are common, as variants of a preprocessing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from preprocessing import PreprocessingSpec

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


def describe_geometry(spec: PreprocessingSpec) -> str:
    """Resize and crop in words."""
    resize = "no resize"
    if spec.resize is not None:
        kind = "the shorter side" if spec.resize.mode == "shorter_side" else "both sides (squash)"
        resize = f"resize {kind} to {spec.resize.size}"
    return f"{resize}, {'no crop' if spec.crop is None else f'crop {spec.crop}'}"


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
