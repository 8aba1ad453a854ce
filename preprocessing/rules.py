"""What turns file bytes into the image: the rules of a model and the limits of an operator."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DecodeRules(BaseModel):
    """How the bytes of a file become the image. Part of the model, travels in its manifest.

    The defaults give what `Image.open(file).convert(mode)` gives in Pillow, which is what most
    training pipelines run. The one exception is `grey16`: Pillow clips, and hardly anything
    is left of the picture.

    Attributes:
        mode: "RGB" or "L" (grey, ITU-R 601-2 luma as Pillow computes it).
        exif_orientation: Turn the picture upright as its EXIF (or XMP) orientation says.
        alpha: What is behind transparent pixels. "drop" shows their hidden colour.
        grey16: 16-bit greyscale to 8 bits: "scale" keeps the high byte, "clip" is Pillow's
            `convert`, which turns all values above 255 into 255.
        shrink_jpeg_to_side: Decode a JPEG at 1/2, 1/4 or 1/8 of its size as long as its
            shorter side keeps at least so many pixels. Faster, and other pixels than a full
            decode. None decodes in full.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["RGB", "L"] = "RGB"
    exif_orientation: bool = False
    alpha: Literal["drop", "white", "black"] = "drop"
    grey16: Literal["scale", "clip"] = "scale"
    shrink_jpeg_to_side: int | None = Field(default=None, ge=1)


class DecodeLimits(BaseModel):
    """What one file may cost. Set by the operator, independent of the model.

    Attributes:
        max_bytes: Length of the file.
        max_pixels: Width × height that the file declares, checked before any pixel is decoded.
        max_aspect_ratio: Longer side ÷ shorter side.
        max_resized_pixels: Width × height after the resize of a spec, checked before it.
        max_decode_memory_bytes: Highest estimated memory of one decode (see `memory`).
        max_decode_cpu_seconds: CPU time of one decode, checked while the decoder reads on.
        max_decode_reads: Reads of one decode. Ordinary files take tens to thousands.
        max_jpeg_scans: Scans of one JPEG. Each costs time by the size of the picture, however
            few bytes it has; encoders write 1 to 20.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=20 * 2**20, ge=1)
    max_pixels: int = Field(default=25_000_000, ge=1)
    max_aspect_ratio: float = Field(default=150.0, ge=1.0)
    max_resized_pixels: int = Field(default=10_000_000, ge=1)
    max_decode_memory_bytes: int = Field(default=300_000_000, ge=1)
    max_decode_cpu_seconds: float = Field(default=2.0, gt=0)
    max_decode_reads: int = Field(default=500_000, ge=1)
    max_jpeg_scans: int = Field(default=64, ge=1)
