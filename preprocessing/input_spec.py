"""Shape, dtype and normalisation of model inputs."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, model_validator


class InputSpec(BaseModel):
    """What a preprocessing makes and the exported graphs take.

    Attributes:
        shape: (H, W, C) of one input.
        dtype: "uint8": the graph scales and normalises; "float32": the preprocessing did.
        mean, std: One value a channel on the [0, 1] scale; None for float32 inputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    dtype: Literal["uint8", "float32"]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        channels = self.shape[2]
        if self.shape[0] in (1, 3) and channels not in (1, 3):
            raise ValueError(f"shape {self.shape} looks like (C, H, W); it must be (H, W, C)")
        if self.dtype == "uint8":
            check_normalisation(channels, self.mean or (), self.std or ())
        elif (self.mean, self.std) != (None, None):
            raise ValueError("mean and std must be None with float32: the preprocessing normalises")
        return self


def check_normalisation(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless there is a mean and a positive deviation for each channel."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(
                f"{name} must have {channels} numbers, one a channel (decode.mode), got {values}"
            )
    if min(std) <= 0:
        raise ValueError(f"std must be positive, got {std}")


def problems_of(error: ValidationError) -> str:
    """List all validation errors as `key: problem; key: problem`."""
    lines = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        place = ".".join(map(str, problem["loc"]))
        lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)
