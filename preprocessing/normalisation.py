"""uint8 inputs → the normalised float32 batch that a network sees."""

import numpy as np
import numpy.typing as npt


def normalise(
    batch: npt.NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> npt.NDArray[np.float32]:
    """Compute (x / 255 - mean) / std in float32, in the order torchvision computes it.

    Serving does this inside the exported graph; this is for tests and the reference.

    Args:
        batch: uint8 (n, H, W, C).
        mean: C means on the [0, 1] scale.
        std: C standard deviations on the same scale.

    Returns:
        float32 (n, C, H, W), C-contiguous.
    """
    scaled = batch.astype(np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))  # (n, C, H, W)
