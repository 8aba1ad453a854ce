"""The UCI digits bundled with scikit-learn, with a fixed training split."""

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
    """Return the 1,438 digits that the weights are fitted to."""
    return _digits(held_out=False)


def held_out_digits() -> Digits:
    """Return the 359 digits that are not trained on; accuracy and samples come from them."""
    return _digits(held_out=True)


def _digits(*, held_out: bool) -> Digits:
    # Imported here because it takes seconds.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images, labels = load_digits().images, load_digits().target
    selected = (np.arange(len(labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out
    return Digits(
        images=images[selected].astype(np.uint8), labels=labels[selected].astype(np.int64)
    )
