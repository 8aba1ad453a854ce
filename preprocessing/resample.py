"""Resize of uint8 arrays, bit-equal to torchvision.transforms.v2 on uint8 tensors."""

import math

import numpy as np
import numpy.typing as npt

_CUBIC_ANTIALIASED = -0.5  # Keys' cubic coefficient, as in Pillow
_CUBIC_PLAIN = -0.75  # as in OpenCV
_MAX_PRECISION_BITS = 22


def resize_as_tensor(
    pixels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    interpolation: str,
    *,
    antialias: bool,
) -> npt.NDArray[np.uint8]:
    """Resize as `torchvision.transforms.v2.functional.resize` does with a uint8 CPU tensor.

    The arithmetic is that of aten/src/ATen/native/cpu/UpSampleKernel.cpp (torch 2.14) with
    AVX2: 16-bit integer weights, columns before rows, 8 bits between the two passes.

    Args:
        pixels: (H, W) or (H, W, C).
        size: (width, height) of the result.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        antialias: Widen the filter when shrinking; "nearest" has none.
    """
    for axis, length in ((1, size[0]), (0, size[1])):
        if interpolation == "nearest":
            pixels = pixels.take(_nearest(pixels.shape[axis], length), axis=axis)
        elif pixels.shape[axis] != length:
            taps = _taps(pixels.shape[axis], length, interpolation, antialias)
            pixels = _weighted(pixels.swapaxes(0, axis), *taps).swapaxes(0, axis)
    return pixels


def _nearest(source_length: int, length: int) -> npt.NDArray[np.intp]:
    # In float32, as torch does: exact arithmetic differs for some sizes.
    scale = np.float32(source_length) / np.float32(length)
    targets = np.arange(length, dtype=np.float32)
    return np.minimum((targets * scale).astype(np.intp), source_length - 1)


def _weighted(
    pixels: npt.NDArray[np.uint8],
    positions: npt.NDArray[np.intp],
    weights: npt.NDArray[np.int32],
    precision_bits: int,
) -> npt.NDArray[np.uint8]:
    """Resample the first axis."""
    ends = (1,) * (pixels.ndim - 1)
    rounding = np.int32(1 << (precision_bits - 1))
    total = np.full((positions.shape[1], *pixels.shape[1:]), rounding, np.int32)
    for position, weight in zip(positions, weights, strict=True):
        total += pixels[position] * weight.reshape(-1, *ends)
    total >>= precision_bits
    return total.clip(0, 255, out=total).astype(np.uint8)


def _taps(
    source_length: int, length: int, interpolation: str, antialias: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], int]:
    """Return the source positions and weights of each target position along one axis.

    Returns:
        Positions (taps, target length), clamped to the source; weights of the same shape, scaled
        by 2 ** bits; bits, the largest number that keeps every weight in 16 bits.
    """
    scale = source_length / length
    targets = np.arange(length, dtype=np.float64)
    if antialias:
        first, weights = _antialiased(targets, scale, source_length, interpolation)
    else:
        first, weights = _plain(targets, scale, interpolation)
    positions = first + np.arange(len(weights), dtype=np.intp)[:, None]
    positions, weights = _folded(positions, weights, source_length)
    largest = float(weights.max())
    fitting = range(_MAX_PRECISION_BITS)
    bits = next(
        (n for n in fitting if int(0.5 + largest * (2 << n)) >= 1 << 15), _MAX_PRECISION_BITS
    )
    scaled = weights * (1 << bits)
    rounded = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)
    return positions, rounded, bits


def _antialiased(
    targets: npt.NDArray[np.float64], scale: float, source_length: int, interpolation: str
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the first source position of each target, and its weights, which sum to 1."""
    widening = max(scale, 1.0)
    support = _SUPPORT[interpolation] * widening
    centres = scale * (targets + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    end = np.minimum((centres + support + 0.5).astype(np.intp), source_length)
    taps = np.arange(math.ceil(support) * 2 + 1)[:, None]
    distances = (taps + first - centres + 0.5) * (1.0 / widening)
    weights = np.where(taps < end - first, _filter(interpolation, distances, antialias=True), 0.0)
    return first, weights / weights.sum(axis=0)


def _plain(
    targets: npt.NDArray[np.float64], scale: float, interpolation: str
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    support = int(_SUPPORT[interpolation])
    centres = scale * (targets + 0.5) - 0.5
    floors = np.floor(centres)
    taps = np.arange(2 * support)[:, None]
    weights = _filter(interpolation, taps + 1 - support - (centres - floors), antialias=False)
    return floors.astype(np.intp) - support + 1, weights


def _folded(
    positions: npt.NDArray[np.intp], weights: npt.NDArray[np.float64], source_length: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Clamp positions to the source and add the weights outside it to those of the edge."""
    clamped = positions.clip(0, source_length - 1)
    for tap in range(len(positions) - 1):
        same = clamped[tap] == clamped[tap + 1]
        weights[tap + 1] += np.where(same, weights[tap], 0.0)
        weights[tap] = np.where(same, 0.0, weights[tap])
    return clamped, weights


_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


def _filter(
    interpolation: str, distances: npt.NDArray[np.float64], *, antialias: bool
) -> npt.NDArray[np.float64]:
    x = np.abs(distances)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    if interpolation == "lanczos":
        return np.where(x < 3.0, np.sinc(distances) * np.sinc(distances / 3.0), 0.0)
    a = _CUBIC_ANTIALIASED if antialias else _CUBIC_PLAIN
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
