"""Resize of uint8 arrays as torchvision resizes uint8 tensors."""

import numpy as np
import numpy.typing as npt


def resize_as_tensor(
    pixels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    interpolation: str,
    *,
    antialias: bool,
) -> npt.NDArray[np.uint8]:
    """Resize (H, W) or (H, W, C) to size (width, height)."""
    raise NotImplementedError
