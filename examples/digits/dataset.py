"""The UCI digits that scikit-learn bundles, in their fixed split."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HELD_OUT_EVERY = 5
SPLIT = "position % 5 == 4 is held out, the rest is for training"


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Handwritten digits as the data set stores them.

    Attributes:
        images: uint8 (n, 8, 8) in [0, 16]: 0 is paper, 16 is ink.
        labels: int64 (n,) in [0, 9].
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def training_digits() -> Digits:
    """The 1,438 digits the weights are fitted to."""
    return _digits(held_out=False)


def held_out_digits() -> Digits:
    """The 359 digits no training step sees; accuracy and samples come from them."""
    return _digits(held_out=True)


def _digits(*, held_out: bool) -> Digits:
    # Takes seconds to import, and ships no types.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images, labels = load_digits().images, load_digits().target
    chosen = (np.arange(len(labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out
    return Digits(images=images[chosen].astype(np.uint8), labels=labels[chosen].astype(np.int64))
