"""The preprocessing a model was trained for, as data."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from preprocessing.errors import SpecError
from preprocessing.input_spec import check_normalisation, problems_of

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_TENSOR_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
Side = Annotated[int, Field(ge=1, le=16_384)]


class DecodeRules(BaseModel):
    """How file bytes become an image. Part of the model, stored in its manifest.

    The defaults equal `Image.open(file).convert(mode)` in Pillow, which most training pipelines
    run, with two exceptions: 16-bit grey is scaled, because Pillow's clipping makes nearly all
    pixels white (`grey16`), and a GIF frame keeps a grey palette of its own.

    Attributes:
        mode: "RGB" or "L" (grey, ITU-R 601-2 luma as Pillow computes it).
        exif_orientation: Turn the image upright as its EXIF (or XMP) orientation says.
        alpha: Background of transparent pixels. "drop" shows their hidden colour.
        grey16: Conversion of 16-bit grey to 8 bits: "scale" keeps the high byte, "clip" is
            Pillow's `convert`, which turns all values above 255 into 255.
        shrink_jpeg_to_side: Decode a JPEG at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size
            whose shorter side has at least this many pixels. Faster than a full decode, with
            different pixels. None decodes at full size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["RGB", "L"] = "RGB"
    exif_orientation: bool = False
    alpha: Literal["drop", "white", "black"] = "drop"
    grey16: Literal["scale", "clip"] = "scale"
    shrink_jpeg_to_side: int | None = Field(default=None, ge=1)


class Resize(BaseModel):
    """How the image is resized.

    Attributes:
        mode: "shorter_side" keeps the aspect ratio, "exact" does not.
        size: Pixels of the shorter side; for "exact" (height, width), or one number for both.
        max_size: Maximum length of the longer side; only with "shorter_side".
        interpolation: Resampling filter. "nearest" is torchvision's NEAREST, and with PIL images
            also its NEAREST_EXACT. With tensors NEAREST_EXACT is not supported, because torch's
            result depends on the kernel that a size selects.
        backend: "pil" resizes as torchvision does with PIL images, "tensor" as
            torchvision.transforms.v2 does with uint8 tensors on a CPU; the pixels differ.
        antialias: Whether the filter widens when the image shrinks. Always true for "pil".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["shorter_side", "exact"] = "shorter_side"
    size: Side | tuple[Side, Side]
    max_size: Side | None = None
    interpolation: Interpolation = "bilinear"
    backend: Literal["pil", "tensor"] = "pil"
    antialias: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode == "shorter_side" and not isinstance(self.size, int):
            raise ValueError(f"size must be one number for shorter_side, got {self.size}")
        if self.max_size is not None:
            if self.mode == "exact" or not isinstance(self.size, int):
                raise ValueError("max_size goes with shorter_side only")
            if self.max_size <= self.size:
                raise ValueError(f"max_size must exceed size ({self.size}), got {self.max_size}")
        if self.backend == "pil" and not self.antialias:
            raise ValueError("antialias: false needs backend: tensor; PIL always antialiases")
        if self.backend == "tensor" and self.interpolation not in _TENSOR_INTERPOLATIONS:
            known = ", ".join(_TENSOR_INTERPOLATIONS)
            raise ValueError(f"backend tensor has {known}, not {self.interpolation}")
        if self.interpolation == "lanczos" and not self.antialias:
            raise ValueError("lanczos needs antialias: true")
        return self


class PreprocessingSpec(BaseModel):
    """How an image becomes model input. Stored in the artifact manifest, beside the weights.

    The exported graph normalises, so the input stays uint8.

    Attributes:
        decode: How file bytes become the image.
        resize: None keeps the size.
        crop: Centre crop, (height, width) or one number for both; black outside the image. None
            takes the whole image and requires an exact resize.
        crop_rounding: How the half pixel is rounded where the crop leaves an odd margin: to "even",
            as in torchvision and timm, or "down", as in Hugging Face's image processors,
            albumentations and Keras.
        mean: Means per channel of pixels scaled to [0, 1], RGB order; default 0.
        std: Standard deviations on the same scale, all positive; default 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decode: DecodeRules = DecodeRules()
    resize: Resize | None = None
    crop: Side | tuple[Side, Side] | None = None
    # Not written if default, so that it is no part of the identity of earlier artifacts.
    crop_rounding: Literal["even", "down"] = Field(
        default="even", exclude_if=lambda rule: rule == "even"
    )
    mean: tuple[FiniteFloat, ...] = ()
    std: tuple[FiniteFloat, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_identity_normalisation(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        decode = fields.get("decode", {})
        mode = decode.get("mode") if isinstance(decode, dict) else getattr(decode, "mode", None)
        channels = 1 if mode == "L" else 3
        return {"mean": (0.0,) * channels, "std": (1.0,) * channels} | fields

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_normalisation(self.input_shape[2], self.mean, self.std)
        return self

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of the input."""
        side = self.crop
        if side is None:
            if self.resize is None or self.resize.mode != "exact":
                raise ValueError("without crop the resize must be exact: inputs have one shape")
            side = self.resize.size
        height, width = (side, side) if isinstance(side, int) else side
        return height, width, 1 if self.decode.mode == "L" else 3

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a YAML or JSON file.

        Raises:
            SpecError: The file cannot be read, or is not a spec; one line.
        """
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                fields = json.loads(text, object_pairs_hook=_unique)
            else:
                fields = _UniqueKeys(text).get_single_data()
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise SpecError(f"{path}: cannot be read as a preprocessing spec: {reason}") from error
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            raise SpecError(f"{path}: {problems_of(error)}; known keys are {known}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping; refuse a key that is written twice, of which parsers take the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{repeated} is given twice")
    return fields


class _UniqueKeys(yaml.SafeLoader):
    """Reads plain YAML values without repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            _unique([(str(key.value), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)
